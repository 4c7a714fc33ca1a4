"""MMA (Multi-Modal Adapter, CVPR 2024): adapters parallel to the deeper blocks of both towers, with a shared layer.

With x the input of a block and y = ln_1(x), its output becomes block(x) + s up(relu(shared(relu(down(y))))); down and
up belong to one tower, shared belongs to both. Place i >= 1 is block i - 1, place 0 the embedded input. loss = cross
entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from prompting.clip import tokenize_texts
from prompting.clip.adapters import BlockAdapter
from prompting.clip.templates import fill
from prompting.learners import Prompts
from prompting.methods.base import CosineCLIP, Options
from prompting.ot.checks import check_choice, check_count, check_number


@dataclass(frozen=True)
class MMAOptions(Options):
    """Settings of MMA.

    Raises:
        ValueError: places that are not 0 <= start <= end; a width below 1; an unknown reading.
    """

    text_ctx_init: str = ""  # words before the class name
    adapter_start: int = 4  # first place
    adapter_end: int = 12  # last place
    adapter_dim: int = 32  # m, width of the adapters
    adapter_scale: float = 0.1  # s
    reading: str = "released"  # gradients of the adapters for s = 1; or corrected, the true gradients

    def __post_init__(self) -> None:
        check_choice("reading", self.reading, ("released", "corrected"))
        if not 0 <= self.adapter_start <= self.adapter_end:
            raise ValueError(
                f"adapter_start is {self.adapter_start}; allowed: 0 to adapter_end, which is {self.adapter_end}"
            )
        check_count("adapter_dim", self.adapter_dim)
        check_number("adapter_scale", self.adapter_scale, minimum=0.0, strict=True)


class Adapter(nn.Module):
    """The projections of one tower at one place: down from d to m, and up from m to d."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Linear(width, inner), nn.ReLU())
        self.up = nn.Linear(inner, width)


class CoupledAdapters(nn.Module):
    """Adapters of both towers, with one shared layer for each place.

    Args:
        widths: d_l and d_v.
        inner: m.
        places: consecutive places, 0 or more.
        scale: s.
        enlarge: divide the gradients of the tensors at places above 0 by s; the gradients of the towers' activations
            stay true.
    """

    def __init__(self, widths: tuple[int, int], inner: int, places: range, scale: float, enlarge: bool = True) -> None:
        super().__init__()
        self.places, self.scale = places, scale
        self.text_adapter = nn.ModuleDict({str(i): Adapter(widths[0], inner) for i in places})
        self.visual_adapter = nn.ModuleDict({str(i): Adapter(widths[1], inner) for i in places})
        self.shared_adapter = nn.ModuleDict({str(i): nn.Sequential(nn.Linear(inner, inner), nn.ReLU()) for i in places})
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)
            if enlarge and name.split(".")[1] != "0":
                parameter.register_hook(lambda gradient: gradient / scale)

    def forward(self) -> Prompts:
        """Return the adapters of both towers."""
        text, visual = self._adapters(self.text_adapter), self._adapters(self.visual_adapter)
        return Prompts(text_adapters=text, visual_adapters=visual)

    def layers(self, place: int) -> list[nn.Linear]:
        """Return the linear layers down, shared and up of the vision tower at a place."""
        adapter: Any = self.visual_adapter[str(place)]
        shared: Any = self.shared_adapter[str(place)]
        return [adapter.down[0], shared[0], adapter.up]

    def _adapters(self, tower: nn.ModuleDict) -> list[BlockAdapter | None]:
        """Return the adapters of a tower: one or None per place, from place 0."""
        adapters: list[BlockAdapter | None] = [None] * self.places.start
        for place in self.places:
            output = partial(self._output, tower[str(place)], self.shared_adapter[str(place)])
            adapters.append(BlockAdapter(output=output))
        return adapters

    def _output(self, adapter: Any, shared: nn.Module, y: Tensor) -> Tensor:
        return self.scale * adapter.up(shared(adapter.down(y)))


class MMA(CosineCLIP[MMAOptions]):
    """CLIP with coupled adapters and the sentence "<text_ctx_init> <class name>."."""

    name = "MultiModalAdapter"
    options_class = MMAOptions

    def build(self, classnames: Sequence[str], options: MMAOptions) -> None:
        self.shape.check_depth(vision=1)
        if options.adapter_end > (blocks := min(self.shape.text_layers, self.shape.vision_layers)):
            raise ValueError(f"adapter_end is {options.adapter_end}; both towers have blocks for 0 to {blocks}")
        self.prompt_learner = CoupledAdapters(
            (self.shape.text_width, self.shape.vision_width),
            options.adapter_dim,
            range(options.adapter_start, options.adapter_end + 1),
            options.adapter_scale,
            enlarge=options.reading == "released",
        )
        self.released_names = {
            f"prompt_learner.{name}": f"adapter_learner.{name}" for name, _ in self.prompt_learner.named_parameters()
        }
        sentences = [fill(f"{options.text_ctx_init} {{}}.", name) for name in classnames]
        self.tokens = tokenize_texts(sentences, clip_model=self.clip)
