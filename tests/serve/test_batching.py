"""Micro-batches: whom they join, how long they wait, and what happens when the model fails or the server stops."""

import threading
import time

import pytest
import torch
from serving import until

from mixonomy.serve.batching import Batcher, Closed

IMAGE = torch.zeros(3, 2, 2, dtype=torch.uint8)


class Model:
    """Answers when it is let, with the sum of each image; notes the sizes of its batches."""

    def __init__(self):
        self.sizes, self.may_answer = [], threading.Event()
        self.may_answer.set()

    def __call__(self, images):
        self.sizes.append(len(images))
        assert self.may_answer.wait(20)
        if images.max() == 255:
            raise ValueError("white")
        return images.flatten(1).sum(1, keepdim=True).double()


def batcher(model, *, max_batch=4, max_wait_s=0.0):
    return Batcher(lambda: (model, max_batch), max_wait_s=max_wait_s)


def submit(target, *values):
    target.announce(len(values))
    return [target.submit(IMAGE + value) for value in values]


def test_what_waits_while_the_model_is_busy_shares_the_next_batches_in_order():
    model = Model()
    target = batcher(model)
    model.may_answer.clear()
    first = submit(target, 1)
    until(lambda: model.sizes == [1])
    rest = submit(target, *range(2, 9))
    assert target.pending == 7
    model.may_answer.set()
    answers = [future.result(20) for future in first + rest]
    assert [answer.probs.item() for answer in answers] == [12 * value for value in range(1, 9)]
    assert model.sizes == [1, 4, 3] and [answer.batch_size for answer in answers] == [1] + 4 * [4] + 3 * [3]
    target.close()


def test_an_image_that_is_alone_is_not_held_up():
    target = batcher(Model(), max_wait_s=30.0)
    begun = time.perf_counter()
    submit(target, 1)[0].result(20)
    assert time.perf_counter() - begun < 10
    target.close()


def test_an_image_waits_for_one_that_is_announced_but_no_longer_than_the_bound():
    model = Model()
    target = batcher(model, max_wait_s=0.2)
    target.announce(2)
    first = target.submit(IMAGE)
    assert first.result(20).wait_s >= 0.2 and model.sizes == [1]
    target.announce(1)
    futures = [target.submit(IMAGE), target.submit(IMAGE)]
    assert [future.result(20).batch_size for future in futures] == [2, 2]
    target.close()


def test_giving_up_an_announced_image_lets_the_others_go():
    target = batcher(Model(), max_wait_s=30.0)
    target.announce(2)
    future = target.submit(IMAGE)
    target.give_up(1)
    assert future.result(20).batch_size == 1
    target.close()


def test_an_error_of_the_model_reaches_those_who_wait_and_the_next_are_answered():
    target = batcher(Model())
    with pytest.raises(ValueError, match="white"):
        submit(target, 255)[0].result(20)
    assert submit(target, 1)[0].result(20).probs.item() == 12
    target.close()


def test_closing_answers_what_is_queued_and_refuses_the_rest():
    model = Model()
    target = batcher(model)
    model.may_answer.clear()
    futures = submit(target, 1, 2, 3, 4, 5, 6)
    closing = threading.Thread(target=target.close)
    closing.start()
    model.may_answer.set()
    closing.join(20)
    assert [future.result(0).probs.item() for future in futures] == [12, 24, 36, 48, 60, 72]
    with pytest.raises(Closed):
        submit(target, 1)
    with pytest.raises(Closed):
        target.call(lambda: None)


def test_calls_run_in_the_model_s_thread_between_batches():
    target = batcher(Model())
    assert target.call(lambda: threading.current_thread().name).result(20) == "model"
    with pytest.raises(KeyError):
        target.call(lambda: {}["x"]).result(20)
    target.close()


def test_a_model_that_cannot_be_loaded_is_told_by_ready():
    def start():
        raise ValueError("no such file")

    target = Batcher(start, max_wait_s=0.0)
    with pytest.raises(ValueError, match="no such file"):
        target.ready.result(20)
    target.close()
