"""BiSeNet with a ResNet-18 as both of its paths (Yu et al., ECCV 2018; He et al., 2016): the usual face parser, and slim forms of it."""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # what ImageNet's weights were trained on, RGB in [0, 1]


class Residual(nn.Module):
    """ResNet's basic block, with torchvision's names."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        self.conv1, self.bn1 = _conv(width_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        same = width_in == width and stride == 1
        self.downsample = (
            None
            if same
            else nn.Sequential(_conv(width_in, width, 1, stride), nn.BatchNorm2d(width))
        )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(
            self.bn2(self.conv2(y)) + (self.downsample(x) if self.downsample else x), inplace=True
        )


class ResNet18(nn.Module):
    """[B, 3, H, W] -> features at 1/8, 1/16 and 1/32 with 2, 4 and 8 times `width` channels; 11,176,512 parameters at 64."""

    def __init__(self, width=64):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Residual(width, width, 1), Residual(width, width, 1))
        self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(Residual(w // 2, w, 2), Residual(w, w, 1))
            for w in (2 * width, 4 * width, 8 * width)
        )

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        y8 = self.layer2(self.layer1(y))
        y16 = self.layer3(y8)
        return y8, y16, self.layer4(y16)


class Refinement(nn.Module):
    """Attention refinement: a convolution, scaled per channel by what its mean says."""

    def __init__(self, width_in, width):
        super().__init__()
        self.conv = ConvNorm(width_in, width)
        self.attention, self.norm = _conv(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.conv(x)
        return y * torch.sigmoid(self.norm(self.attention(y.mean((2, 3), keepdim=True))))


class Fusion(nn.Module):
    """Feature fusion: f + f * attention(f) of both paths' channels side by side."""

    def __init__(self, width):
        super().__init__()
        self.conv = ConvNorm(width, width, 1)
        self.squeeze, self.excite = _conv(width, width // 4, 1), _conv(width // 4, width, 1)

    def forward(self, spatial, context):
        y = self.conv(torch.cat([spatial, context], 1))
        return y + y * torch.sigmoid(
            self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        )


class ConvNorm(nn.Sequential):
    def __init__(self, width_in, width, side=3):
        super().__init__(_conv(width_in, width, side), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class BiSeNet(nn.Module):
    """13,150,272 parameters; 13,300,416 with the two auxiliary heads; slim ones 1,877,256 (width 24) and 1,305,180 (width 20) with them.

    width: channels of the trunk's first stage; all others are multiples of it
    aux:   two more heads, on the context at 1/8 and at 1/16, for training only
    Training needs two pictures per batch or more: Refinement normalises one number per picture and channel.
    """

    def __init__(self, width=64, classes=19, aux=False):
        super().__init__()
        context = 2 * width
        self.trunk = ResNet18(width)
        self.refine32, self.refine16 = (
            Refinement(8 * width, context),
            Refinement(4 * width, context),
        )
        self.whole = ConvNorm(8 * width, context, 1)
        self.smooth32, self.smooth16 = ConvNorm(context, context), ConvNorm(context, context)
        self.fuse = Fusion(4 * width)
        self.head = _head(4 * width, 4 * width, classes)
        self.aux = nn.ModuleList(_head(context, width, classes) for _ in range(2)) if aux else None
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x):
        """x: [B, 3, H, W] in [0, 1], RGB, any H, W -> [B, classes, H, W] float32 logits, also under autocast; while an `aux` network
        trains a tuple of three, the one that counts first, the others [B, classes, ceil(H / 4), ceil(W / 4)]."""
        y8, y16, y32 = self.trunk((x - self.mean) / self.std)

        # Context path: what the whole picture says, refined on the way up.
        y = self.refine32(y32) + self.whole(y32.mean((2, 3), keepdim=True))
        context16 = self.smooth32(F.interpolate(y, y16.shape[-2:], mode='nearest'))
        y = self.refine16(y16) + context16
        context8 = self.smooth16(F.interpolate(y, y8.shape[-2:], mode='nearest'))

        logits = [self.head(self.fuse(y8, context8))]
        if self.aux and self.training:
            logits += [self.aux[0](context8), self.aux[1](context16)]
        logits = tuple(
            F.interpolate(
                y.float(),
                [-(-n // part) for n in x.shape[-2:]],
                mode='bilinear',
                align_corners=True,
            )
            for y, part in zip(logits, (1, 4, 4))
        )
        return logits if len(logits) > 1 else logits[0]

    def load_trunk(self, path):
        """Weights of an ImageNet ResNet-18 with torchvision's names, from a .pth or .safetensors file; its classifier is left out.
        Raises ValueError where the file is of another network, OSError where it cannot be read."""
        path = str(path)
        weights = (
            load_file(path)
            if path.endswith('.safetensors')
            else torch.load(path, map_location='cpu', weights_only=True)
        )
        own = self.trunk.state_dict()
        weights = {name: value for name, value in weights.items() if not name.startswith('fc.')}
        missing = {
            name for name in own if name not in weights and not name.endswith('num_batches_tracked')
        }  # which old files lack
        wrong = missing | {
            name
            for name, value in weights.items()
            if name not in own or value.shape != own[name].shape
        }
        if wrong:
            name = min(wrong)
            found, wanted = (
                tuple(side[name].shape) if name in side else 'nothing' for side in (weights, own)
            )
            raise ValueError(
                f'{path}: not the weights of a ResNet-18 of width {len(own["bn1.weight"])}; '
                f'{len(wrong)} tensors do not fit, as {name}: {found} there, {wanted} here'
            )
        self.trunk.load_state_dict({**own, **weights})


def _head(width_in, width, classes):
    return nn.Sequential(ConvNorm(width_in, width), _conv(width, classes, 1))


def _conv(width_in, width, side, stride=1):
    conv = nn.Conv2d(width_in, width, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=1)
    return conv
