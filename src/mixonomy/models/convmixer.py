"""ConvMixer: a depthwise convolution mixes the locations, a 1x1 convolution the channels, with BatchNorm after each.

Axes: B images, C channels, K classes, h and w rows and columns of patches.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from mixonomy.choices import Activation
from mixonomy.models.isotropic import Options, patch_grid
from mixonomy.nn.init import initialise
from mixonomy.nn.mlp import Gelu
from mixonomy.nn.window import odd


@dataclass(frozen=True)
class ConvMixerSize:
    """One row of the paper's table 1: ConvMixer-`hidden_dim`/`num_blocks`."""

    patch_size: int
    hidden_dim: int
    num_blocks: int
    kernel_size: int
    activation: Activation = "gelu"


# Source: ConvMixer paper (Trockman and Kolter 2022), table 1; small ones: the paper's table 4 and locuslab/
# convmixer-cifar10 train.py.
SPECS = {
    "convmixer-1536/20": ConvMixerSize(7, 1536, 20, 9),
    "convmixer-768/32": ConvMixerSize(7, 768, 32, 7, "relu"),
    "convmixer-1024/20": ConvMixerSize(14, 1024, 20, 9),
    "convmixer-256/8": ConvMixerSize(2, 256, 8, 5),
}

# timm's name -> ours, and the parts of our parameters' names that are called otherwise there.
# Source: timm models/convmixer.py.
TIMM_ARCHITECTURES = {
    "convmixer_1536_20": "convmixer-1536/20",
    "convmixer_768_32": "convmixer-768/32",
    "convmixer_1024_20_ks9_p14": "convmixer-1024/20",
}
TIMM_NAMES = ((".depthwise", ".0.fn.0"), (".norm1", ".0.fn.2"), (".pointwise", ".1"), (".norm2", ".3"))


class ConvMixerBlock(nn.Module):
    """x + norm(act(depthwise(x))), then norm(act(pointwise(x))): only the first part has a skip."""

    def __init__(self, dim: int, kernel_size: int, activation: Activation, gelu: Gelu):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same")
        self.norm1 = nn.BatchNorm2d(dim)
        self.pointwise = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.act = _activation(activation, gelu)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w], float."""
        x = x + self.norm1(self.act(self.depthwise(x)))
        return self.norm2(self.act(self.pointwise(x)))


class ConvMixer(nn.Module):
    """A strided convolution to patches, ConvMixer blocks, mean over the locations, linear head.

    Reads neither `dropout` nor `drop_path`.

    Raises:
      ValueError: if the patch size does not divide the image size, or the kernel size is even.
    Source: ConvMixer paper, section 2; locuslab/convmixer convmixer.py.
    """

    def __init__(self, size: ConvMixerSize, options: Options):
        super().__init__()
        if size.activation not in ("gelu", "relu"):
            raise ValueError(f"activation is {size.activation!r}; use gelu or relu.")
        patch_grid(options.image_size, size.patch_size)
        dim, kernel_size = size.hidden_dim, odd(size.kernel_size)
        self.stem = nn.Sequential(
            nn.Conv2d(options.in_channels, dim, size.patch_size, stride=size.patch_size),
            _activation(size.activation, options.gelu),
            nn.BatchNorm2d(dim),
        )
        self.blocks = nn.Sequential(
            *(ConvMixerBlock(dim, kernel_size, size.activation, options.gelu) for _ in range(size.num_blocks))
        )
        self.head = nn.Linear(dim, options.num_classes)
        initialise(self, options.init)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, options.head_bias)

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, C], the pre-logits."""
        return self.blocks(self.stem(images)).mean(dim=(2, 3))  # [B, C, h, w] -> [B, C]

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, K] logits."""
        return self.head(self.features(images))


def _activation(name: Activation, gelu: Gelu) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
