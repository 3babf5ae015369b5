"""What Prometheus reads at /metrics."""

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self):
        registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR):
            registry.register(collector)
        ProcessCollector(registry=registry)
        self.registry = registry
        self.requests = Counter(
            "mixonomy_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.images = Counter("mixonomy_images", "Images by what came of them.", ["outcome"], registry=registry)
        self.seconds = Histogram(
            "mixonomy_request_seconds", "From the headers to the answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.stages = Histogram(
            "mixonomy_stage_seconds",
            "Of an image: decoding, waiting for the model, in the model with its batch.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_sizes = Histogram("mixonomy_batch_images", "Images in a batch.", buckets=SIZES, registry=registry)
        self.model_seconds = Counter("mixonomy_model_seconds", "Time that the model computed.", registry=registry)
        self.queue = Gauge("mixonomy_queue_images", "Images that decode or wait.", registry=registry)
        self.ready = Gauge("mixonomy_ready", "1 while predictions are answered.", registry=registry)

    def on_batch(self, size: int, seconds: float) -> None:
        """Counts a batch."""
        self.batch_sizes.observe(size)
        self.model_seconds.inc(seconds)

    def answered(self) -> float:
        """Images that got their classes."""
        return self.registry.get_sample_value("mixonomy_images_total", {"outcome": "answered"}) or 0.0

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
