"""Taps on a model for the length of a `with`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.subject.calls import first_tensor, hidden_of, like_output, with_hidden
from superweights.taps.attention import opened_attention
from superweights.taps.resolve import sites_of
from superweights.taps.site import INSIDE_ATTENTION, KINDS, Site, SiteMap, SitePlace, Tap


@contextmanager
def tapping(model: nn.Module, taps: Mapping[Site, Tap], tower: str | None = None) -> Iterator[SiteMap]:
    """The sites of the model, or of one of its towers; inside the `with` every pass shows each tap its tensor.

    A tap is called as `tap(tensor)`, shapes as in `KINDS`. What it returns takes the tensor's place (same
    shape); None leaves the tensor as it is. The tensor is the model's own: copy what is kept, because some
    models add to it in place later, and do not write to it. A streamed model works as a resident one.

    Sites are resolved and checked by `sites_of`; attention runs eagerly in the layers whose logits or
    weights are tapped. `mid` is the sum of the block's input and of what attention wrote, and an edit of it
    goes into that write.

    Raises `SuperweightsError` for a site that this model does not have (with the reason), for a tap that
    returns another shape, and at the end for a tap that no forward pass has come by.
    """
    sites = sites_of(model, tower)
    run = _Run(model, sites, {site: (sites.place(site), tap) for site, tap in taps.items()})
    with ExitStack() as stack:
        run.hook(stack)
        yield sites
    run.check_all_called()


class _Run:
    """The taps of one `with`, and which layer is running. Implements `attention.Listener`."""

    def __init__(self, model: nn.Module, sites: SiteMap, taps: dict[Site, tuple[SitePlace, Tap]]):
        self.model = model
        self.sites = sites
        self.taps = taps
        self.layer: int | None = None
        self.forwards = 0
        self._ran: Counter[str] = Counter()
        self._lead: tuple[int, ...] = ()
        self._block_in: Tensor | None = None
        self._called: set[Site] = set()
        self._attending: int | None = None
        self._columns: int | None = None
        self._inside: dict[tuple[int, int | None], set[str]] = {}
        for site, (place, _) in taps.items():
            if place.edge == "attention":
                module = model.get_submodule(place.path)
                self._inside.setdefault((id(module), site.layer), set()).add(site.kind)

    def hook(self, stack: ExitStack) -> None:
        """Put every hook on the model until `stack` closes."""
        stack.enter_context(self.model.register_forward_pre_hook(self._restart))
        for path in dict.fromkeys(self.sites.blocks):
            block = self.model.get_submodule(path)
            stack.enter_context(block.register_forward_pre_hook(self._begin(path), with_kwargs=True))
        order = list(KINDS)
        inside = False
        for site, (place, _) in sorted(self.taps.items(), key=lambda item: order.index(item[0].kind)):
            inside |= site.kind in INSIDE_ATTENTION
            for handle in self._hooks(site, place):
                stack.enter_context(handle)
        stack.enter_context(self.model.register_forward_hook(self._count))
        if inside:
            stack.enter_context(opened_attention(self.model, self))

    def check_all_called(self) -> None:
        """Raise for a tap that no forward pass has come by."""
        missed = [site for site in self.taps if site not in self._called]
        if self.forwards and missed:
            raise SuperweightsError(
                f"The tap at {missed[0]} was never reached.",
                hint="the model's forward pass skips that place.",
            )

    def _hooks(self, site: Site, place: SitePlace) -> list[Any]:
        module = self.model.get_submodule(place.path)
        if place.edge == "input":
            return [module.register_forward_pre_hook(self._on_input(site), with_kwargs=True)]
        if place.edge == "output":
            return [module.register_forward_hook(self._on_output(site, place.scale))]
        if place.edge == "sum":
            return [module.register_forward_hook(self._on_sum(site, place.scale))]
        if place.edge == "logits":
            return [module.register_forward_hook(self._on_logits(site))]
        if place.through_interface:
            return []
        return [
            module.register_forward_pre_hook(lambda *_: self._attend(site.layer)),
            module.register_forward_hook(lambda *_: self._attend(None)),
        ]

    def _restart(self, *_: object) -> None:
        """A pass begins."""
        self._ran.clear()

    def _begin(self, path: str) -> Callable:
        layers = [layer for layer, each in enumerate(self.sites.blocks) if each == path]

        def begin(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            layer = layers[self._ran[path] % len(layers)]
            self._ran[path] += 1
            hidden = hidden_of(args, kwargs)
            self.layer, self._lead, self._attending = layer, tuple(hidden.shape[:-1]), None
            changed = self._show(Site("block_in", layer), hidden)
            self._block_in = hidden if changed is None else changed
            return None if changed is None else with_hidden(args, kwargs, changed)

        return begin

    def _on_input(self, site: Site) -> Callable:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if site.kind == "block_in" or self._elsewhere(site):
                return None  # block_in is shown when its block begins
            changed = self._show(site, hidden_of(args, kwargs))
            return None if changed is None else with_hidden(args, kwargs, changed)

        return before

    def _on_output(self, site: Site, scale: float) -> Callable:
        def after(module: nn.Module, args: tuple, out: Any) -> Any:
            if self._elsewhere(site):
                return None
            tensor = first_tensor(out)
            if scale == 1:
                changed = self._show(site, tensor)
            else:
                changed = self._show(site, tensor * scale)
                changed = None if changed is None else changed / scale
            return None if changed is None else like_output(out, changed)

        return after

    def _on_sum(self, site: Site, scale: float) -> Callable:
        def after(module: nn.Module, args: tuple, out: Any) -> Any:
            if self._elsewhere(site):
                return None
            written, start = first_tensor(out), self._block_in
            assert start is not None
            changed = self._show(site, start + scale * written.reshape(start.shape))
            if changed is None:
                return None
            return like_output(out, ((changed - start) / scale).reshape(written.shape))

        return after

    def _on_logits(self, site: Site) -> Callable:
        def after(model: nn.Module, args: tuple, out: Any) -> None:
            changed = self._show(site, out.logits)
            if changed is not None:
                out.logits = changed

        return after

    def _elsewhere(self, site: Site) -> bool:
        """Whether a module that several layers share is running for another one."""
        return site.layer is not None and site.layer != self.layer

    def _show(self, site: Site, tensor: Tensor) -> Tensor | None:
        """What the tap at `site` makes of `tensor`, in the tensor's own shape; None for nothing."""
        if site not in self.taps:
            return None
        place, tap = self.taps[site]
        shown = self._shaped(tensor, place, site)
        self._called.add(site)
        changed = tap(shown)
        if changed is None:
            return None
        if not isinstance(changed, Tensor) or changed.shape != shown.shape:
            got = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise SuperweightsError(
                f"The tap at {site} returned {got}, and the site holds {list(shown.shape)}.",
                hint="a tap returns None, or a tensor of the shape it was given.",
            )
        return changed.to(tensor.device, tensor.dtype).reshape(tensor.shape)

    def _shaped(self, tensor: Tensor, place: SitePlace, site: Site) -> Tensor:
        """The tensor in the shape that `KINDS` promises."""
        if site.kind == "head_out":
            return tensor.reshape(*self._lead, place.heads or 1, -1)
        if place.edge == "attention":
            return tensor if tensor.ndim == 4 else tensor.reshape(self._lead[0], -1, *tensor.shape[-2:])
        return tensor.reshape(*self._lead, -1) if tensor.ndim == 2 and site.layer is not None else tensor

    def _count(self, *_: object) -> None:
        self.forwards += 1

    def _attend(self, layer: int | None) -> None:
        """Attention without the interface begins or ends in the layer that is running."""
        if layer is None or layer == self.layer:
            self._attending, self._columns = layer, None

    def enter(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (id(module), self.layer) not in self._inside:
            return q, k, v
        self._attending, self._columns = self.layer, k.shape[-2]
        shown = {"q": q, "k": k, "v": v}
        for kind, tensor in shown.items():
            changed = self._show(Site(kind, self.layer), tensor)
            shown[kind] = tensor if changed is None else changed
        return shown["q"], shown["k"], shown["v"]

    def leave(self, module: nn.Module) -> None:
        self._attending = None

    def wants_softmax(self, module: nn.Module) -> bool:
        return not self._inside.get((id(module), self.layer), set()).isdisjoint(("logits", "weights"))

    def before_softmax(self, tensor: Tensor) -> Tensor:
        return self._show_square("logits", tensor)

    def after_softmax(self, tensor: Tensor) -> Tensor:
        return self._show_square("weights", tensor)

    def _show_square(self, kind: str, tensor: Tensor) -> Tensor:
        """Show logits or weights; a learned sink stands as one column more, which the tap does not see."""
        site = Site(kind, self._attending) if self._attending is not None else None
        if site not in self.taps or tensor.ndim < 3:
            return tensor
        columns = self._columns or tensor.shape[-1]
        changed = self._show(site, tensor[..., :columns])
        return tensor if changed is None else torch.cat([changed, tensor[..., columns:]], -1)
