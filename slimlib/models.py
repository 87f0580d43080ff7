"""The networks of the book, those of torchvision and timm by name, and two pretrained CIFAR-10 networks.

Every convolution has a name that a table can show: a VGG's are ``conv1`` ... ``conv13``, as Li et al. (2017) count them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

from slimlib import libraries
from slimlib.downloads import downloaded
from slimlib.errors import SlimlibError
from slimlib.storage import load_weights


def lenet5(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """The LeNet-5 of the pruning literature: 20-50-500, Caffe's form, for 28 x 28 images.

    LeCun et al. (1998) had 6-16-120-84; papers on pruning mean this wider network of 431,080 parameters. Its only activation is a
    ReLU behind fc1: the convolutions are followed by max pooling alone.
    """
    return _initialised(nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(in_channels, 20, 5), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(),
        fc1=nn.Linear(50 * 4 * 4, 500), relu1=nn.ReLU(inplace=True), fc2=nn.Linear(500, num_classes))))


def vgg16(num_classes: int = 10, in_channels: int = 3) -> nn.Sequential:
    """VGG-16 for 32 x 32 images as Li et al. (2017, Table 2) prune it: 13 convolutions, Linear 512, Linear 10.

    Batch normalisation follows every layer but the last. The convolutions have no bias, which the normalisation would
    cancel. 14,987,722 parameters for ten classes, 313,463,808 multiply-adds.
    """
    features = _vgg_features(in_channels, (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M",
                                           512, 512, 512, "M"))
    return _initialised(nn.Sequential(OrderedDict(
        **features, flatten=nn.Flatten(), fc1=nn.Linear(512, 512), bn_fc1=nn.BatchNorm1d(512),
        relu_fc1=nn.ReLU(inplace=True), fc2=nn.Linear(512, num_classes))))


def vgg_small(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """Six convolutions, 16 to 128 wide, for the quick profile: learns 10,000 images on one CPU core in seconds."""
    features = _vgg_features(in_channels, (16, "M", 32, 32, "M", 64, 64, "M", 128))
    return _initialised(nn.Sequential(OrderedDict(
        **features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(128, num_classes))))


def _vgg_features(channels: int, layout: Sequence[int | str]) -> dict[str, nn.Module]:
    """The convolutional part of a VGG: a number is a 3 x 3 convolution of that width, "M" a 2 x 2 max pooling."""
    layers: dict[str, nn.Module] = {}
    conv = pool = 0
    for width in layout:
        if width == "M":
            pool += 1
            layers[f"pool{pool}"] = nn.MaxPool2d(2)
            continue
        conv += 1
        layers[f"conv{conv}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers[f"bn{conv}"] = nn.BatchNorm2d(width)
        layers[f"relu{conv}"] = nn.ReLU(inplace=True)
        channels = width
    return layers


class ZeroPadShortcut(nn.Module):
    """He et al.'s option A: every second pixel, and zeros for the channels that are new. It has no parameters."""

    def __init__(self, in_width: int, out_width: int, stride: int):
        super().__init__()
        before = (out_width - in_width) // 2
        self.stride, self.padding = stride, (0, 0, 0, 0, before, out_width - in_width - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], self.padding)


class BasicBlock(nn.Module):
    """relu(x' + bn2(conv2(relu(bn1(conv1(x)))))), where x' is x or its shortcut to another shape."""

    def __init__(self, in_width: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.shortcut = ZeroPadShortcut(in_width, width, stride) if shortcut == "A" else nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """He et al.'s (2016, section 4.2) residual network for small images: a stage of basic blocks for each of ``widths``."""

    def __init__(self, blocks: int, widths: Sequence[int], num_classes: int, in_channels: int, shortcut: str,
                 stem_stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths, start=1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            ins = [before] + [width] * (blocks - 1)
            self.add_module(f"layer{stage}", nn.Sequential(
                *(BasicBlock(i, width, s, shortcut) for i, s in zip(ins, strides, strict=True))))
            before = width
        self.stages = len(widths)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            out = self.get_submodule(f"layer{stage}")(out)
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def cifar_resnet(depth: int, num_classes: int = 10, shortcut: str = "A", in_channels: int = 3) -> ResNet:
    """ResNet-20, -32, -44, -56, -110 ... of He et al. (2016), section 4.2: widths 16-32-64, depth = 6 n + 2.

    ``shortcut="A"`` pads with zeros where the width doubles, as the paper does on CIFAR-10; ``"B"`` has a 1 x 1
    convolution there, so that the residual stream can be slimmed as well.
    """
    if not isinstance(depth, Integral) or depth < 8 or (depth - 2) % 6:
        raise SlimlibError(f"depth={depth!r} must be a whole number, 6 n + 2: 8, 14, 20, 32, 44, 56, 110, ...")
    if shortcut not in ("A", "B"):
        raise SlimlibError(f'shortcut={shortcut!r} must be "A" (zero padding) or "B" (1 x 1 convolution)')
    return _initialised(ResNet((depth - 2) // 6, (16, 32, 64), num_classes, in_channels, shortcut))


def resnet_small(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """A residual network for the quick profile: 14 layers, widths 16-32-64, option B, a first layer of stride 2."""
    return _initialised(ResNet(2, (16, 32, 64), num_classes, in_channels, "B", stem_stride=2))


def build(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """A freshly initialised network by name: one of :data:`NAMES`, "torchvision:resnet50" or "timm:resnet50" and their like."""
    if name in _BUILDERS:
        return _BUILDERS[name](num_classes=num_classes, in_channels=in_channels)
    if libraries.is_named(name):
        return libraries.build(name, num_classes, in_channels)
    raise SlimlibError(f'name={name!r} is no network of slimlib; choose one of {", ".join(NAMES)}, or "torchvision:" or '
                       '"timm:" and the name of a classification network there')


def usual_shape(name: str) -> tuple[tuple[int, int, int], int]:
    """What a network of :func:`build` or :func:`pretrained` is usually made for: (C, H, W) of an input, and classes."""
    if libraries.is_named(name):
        return libraries.usual_input(name), 1000
    return ((1, 28, 28) if name in ("lenet5", "vgg_small", "resnet_small") else (3, 32, 32)), 10


_BUILDERS = {"lenet5": lenet5, "vgg16": vgg16, "vgg_small": vgg_small, "resnet_small": resnet_small}
for _depth in (20, 32, 44, 56, 110):
    for _shortcut in "AB":  # resnet20 is option A; resnet20b is option B
        _BUILDERS[f"resnet{_depth}" + ("b" if _shortcut == "B" else "")] = (
            lambda depth=_depth, shortcut=_shortcut, **shape: cifar_resnet(depth, shortcut=shortcut, **shape))
NAMES = tuple(_BUILDERS)

# Trained by Y. Idelbayev (BSD-2-Clause); the file names carry the first digits of the file's SHA-256.
_RELEASE = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
_PRETRAINED = {"cifar10/resnet20": (20, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),
               "cifar10/resnet56": (56, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367")}
#: (mean, std) of the inputs that the pretrained networks were trained on; see :func:`slimlib.data.with_normalisation`.
PRETRAINED_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pretrained(name: str) -> ResNet:
    """A trained network: ``"cifar10/resnet20"`` (91.7 % of the test images right) or ``"cifar10/resnet56"`` (93.4 %).

    Read from ``weights`` in :func:`slimlib.files.data_folder`, and downloaded once. The network expects
    inputs normalised by :data:`PRETRAINED_NORMALISATION`.

    Raises:
        SlimlibError: unknown name, no file and no network, or a file whose SHA-256 is another.
    """
    if name not in _PRETRAINED:
        raise SlimlibError(f"name={name!r} is no pretrained network; choose one of {', '.join(_PRETRAINED)}")
    depth, sha256 = _PRETRAINED[name]
    file_name = f"resnet{depth}-{sha256[:8]}.th"
    return load_weights(cifar_resnet(depth), downloaded(_RELEASE + file_name, sha256)).eval()


def _initialised(model: nn.Module) -> nn.Module:
    """He et al.'s (2015) normal initialisation of all convolutions and linear layers, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
