"""Weights and optimizer state in and out of a DeepSpeed engine, piece by piece.

A piece is a stretch of one parameter, flattened: fp32 weight and Adam's two moments. Every rank writes the pieces that it owns, and
reads those that it needs from whatever ranks wrote them, so a checkpoint does not depend on how many ranks or which ZeRO stage made it.
The files are safetensors: nothing that comes from another machine is unpickled.

DeepSpeed's own checkpoints can be loaded on another number of ranks only after a conversion, are written while the GPU waits, and are
pickles. What this relies on inside DeepSpeed is where it keeps its flat partitions (`_slots`), and is tested for every stage.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_BYTES = 1 << 30
"""Pieces are spread over files of about this size."""

WEIGHT, BUFFER, WHOLE = "weight", "buffer", "rank"
"""Kinds of entries besides the optimizer's own (`exp_avg`, `exp_avg_sq`). `rank` entries belong to one rank of one layout."""


@dataclass(frozen=True)
class Slot:
    """Where a rank keeps a stretch of a parameter: `length` elements from `start` of it, from `offset` of the flat tensor `owner`."""

    name: str
    start: int
    length: int
    owner: torch.Tensor
    """The fp32 tensor that the optimizer steps; its state has the same shape."""
    offset: int
    group: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this stretch of a tensor that is shaped like `owner`."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)


def slots(engine: Any) -> list[Slot]:
    """Return where this rank keeps its pieces, for any ZeRO stage."""
    return list(_slots(engine))


def _slots(engine: Any) -> Iterator[Slot]:
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    group_of = {id(p): i for i, group in enumerate(engine.basic_optimizer.param_groups) for p in group["params"]}
    for name, p in engine.module.named_parameters():
        if stage == 0:
            yield Slot(name, 0, p.numel(), p, 0, group_of[id(p)])
        elif stage in (1, 2):
            mapping = getattr(p, "_hp_mapping", None)
            if mapping is not None:
                group, here, there = mapping.param_group_index, mapping.lp_fragment_address, mapping.hp_fragment_address
                yield Slot(name, here.start, here.numel, optimizer.single_partition_of_fp32_groups[group], there.start, group)
        else:
            flat, offset, part = optimizer.grad_position[optimizer.get_param_id(p)]
            start = optimizer._get_param_partition_rank(p) * part
            # The last ranks' parts may be padding.
            length = min(part, p.ds_numel - start)
            if length > 0:
                group = optimizer.sub_group_to_group_id[flat]
                yield Slot(name, start, length, optimizer.fp32_partitioned_groups_flat[flat], offset, group)


def shapes(engine: Any) -> dict[str, list[int]]:
    """Return every parameter's shape, whether it is sharded or not."""
    return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in engine.module.named_parameters()}


# --- out ------------------------------------------------------------------------------------------------------------------


def snapshot(engine: Any, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Copy what this rank has to write into main memory; training may go on while the copy is written."""
    state, kept, whole = engine.basic_optimizer.state, {}, {}
    owned: set[int] = set()
    for number, slot in enumerate(_slots(engine)):
        if engine.zero_optimization_stage() == 0 and number % world != rank:
            # Nothing is sharded at stage 0: the ranks share the writing.
            continue
        kept[f"{WEIGHT}/{slot.name}@{slot.start}"] = _copied(slot.of(slot.owner))
        for key, value in state.get(slot.owner, {}).items():
            if key == "step" or not torch.is_tensor(value):
                continue
            if value.shape == slot.owner.shape and value.is_floating_point():
                kept[f"{key}/{slot.name}@{slot.start}"] = _copied(slot.of(value))
            elif id(slot.owner) not in owned:
                whole[f"{WHOLE}/{rank}/{slot.name}/{key}"] = value
        owned.add(id(slot.owner))
    if rank == 0:
        for name, buffer in _buffers(engine.module):
            kept[f"{BUFFER}/{name}@0"] = _copied(buffer)
    return kept | {key: _copied(value) for key, value in whole.items()}


def optimizer_steps(engine: Any) -> int:
    """Return how many steps the optimizer counts."""
    return max((int(state["step"]) for state in engine.basic_optimizer.state.values() if "step" in state), default=0)


def size(engine: Any) -> int:
    """Return about how many bytes `snapshot` copies on this rank: three fp32 numbers a parameter."""
    return sum(12 * slot.length for slot in _slots(engine))


def write(tensors: dict[str, torch.Tensor], folder: Path, rank: int) -> list[Path]:
    """Write a snapshot as safetensors files of about `FILE_BYTES` and return them."""
    written: list[Path] = []
    part: dict[str, torch.Tensor] = {}
    held = 0
    for key, tensor in tensors.items():
        if part and held + tensor.nbytes > FILE_BYTES:
            written.append(_save(part, folder, rank, len(written)))
            part, held = {}, 0
        part[key] = tensor
        held += tensor.nbytes
    if part:
        written.append(_save(part, folder, rank, len(written)))
    return written


def _save(part: dict[str, torch.Tensor], folder: Path, rank: int, number: int) -> Path:
    path = folder / f"rank-{rank:05d}-{number:04d}.safetensors"
    save_file(part, str(path))
    return path


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    parameters = dict(module.named_parameters())
    return [(name, value) for name, value in module.state_dict().items() if name not in parameters and torch.is_tensor(value)]


# --- in -------------------------------------------------------------------------------------------------------------------


class Reader:
    """The pieces of a checkpoint folder, whoever wrote them. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._files: dict[str, tuple[Any, str]] = {}
        self._pieces: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for path in sorted(folder.glob("rank-*.safetensors")):
            file = self._stack.enter_context(safe_open(str(path), framework="pt"))
            for key in file.keys():  # noqa: SIM118 (a file is no mapping)
                self._files[key] = (file, key)
                name, at, start = key.rpartition("@")
                if at:
                    length = math.prod(file.get_slice(key).get_shape())
                    self._pieces[name].append((int(start), length, key))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kinds(self) -> set[str]:
        """Return the kinds of entries there are, e.g. `weight` and `exp_avg`."""
        return {name.partition("/")[0] for name in self._pieces}

    def read(self, kind: str, name: str, start: int, length: int) -> torch.Tensor:
        """Return `length` elements of a parameter from `start`. Raises KeyError when some are missing."""
        pieces = self._pieces.get(f"{kind}/{name}", [])
        out, filled = torch.empty(0), 0
        for begin, n, key in pieces:
            low, high = max(start, begin), min(start + length, begin + n)
            if low >= high:
                continue
            part = self._files[key][0].get_slice(key)[low - begin : high - begin]
            if not filled:
                out = torch.empty(length, dtype=part.dtype)
            out[low - start : high - start] = part
            filled += high - low
        if filled != length:
            raise KeyError(f"{kind} of {name}: {filled} of {length} elements from {start}")
        return out

    def whole(self, rank: int, name: str, key: str) -> torch.Tensor:
        """Return what one rank wrote for itself alone. Raises KeyError."""
        file, key = self._files[f"{WHOLE}/{rank}/{name}/{key}"]
        return file.get_tensor(key)

    def tensor(self, key: str) -> torch.Tensor | None:
        """Return an entry by its own name, None when there is none."""
        file, _ = self._files.get(key, (None, ""))
        return None if file is None else file.get_tensor(key)

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the module's buffers."""
        found = {name: pieces[0][2] for name, pieces in self._pieces.items() if name.startswith(f"{BUFFER}/")}
        return {name.removeprefix(f"{BUFFER}/"): self._files[key][0].get_tensor(key) for name, key in found.items()}


def weights(folder: Path, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return all fp32 weights and buffers of a checkpoint, assembled, by name. Raises KeyError when some are missing."""
    with Reader(folder) as reader:
        full = {name: reader.read(WEIGHT, name, 0, math.prod(shape)).view(shape) for name, shape in shapes.items()}
        return full | reader.buffers()


def restore(engine: Any, folder: Path, steps: int, *, rank: int, same_layout: bool) -> None:
    """Set master weights and optimizer state of an engine whose model was built from the same checkpoint's weights.

    `steps` is what the optimizer had counted. State that is bound to a rank (8-bit moments) needs `same_layout`; without it those
    moments start at zero again. Raises KeyError when pieces are missing.
    """
    mine = slots(engine)
    owners = {id(slot.owner): slot for slot in reversed(mine)}
    _prime(engine.basic_optimizer, list(owners.values()))
    state = engine.basic_optimizer.state
    with Reader(folder) as reader:
        kinds = reader.kinds()
        for slot in mine:
            slot.of(slot.owner).copy_(reader.read(WEIGHT, slot.name, slot.start, slot.length))
            for key, value in state[slot.owner].items():
                if key != "step" and torch.is_tensor(value) and value.shape == slot.owner.shape and key in kinds:
                    slot.of(value).copy_(reader.read(key, slot.name, slot.start, slot.length))
        for slot in owners.values():
            _set_steps(state[slot.owner], steps)
            if same_layout:
                _restore_whole(reader, state[slot.owner], rank, slot)


def _restore_whole(reader: Reader, state: dict[str, Any], rank: int, slot: Slot) -> None:
    for key, value in state.items():
        is_piecewise = torch.is_tensor(value) and value.shape == slot.owner.shape and value.is_floating_point()
        if key != "step" and torch.is_tensor(value) and not is_piecewise:
            value.copy_(reader.whole(rank, slot.name, key))


def _set_steps(state: dict[str, Any], steps: int) -> None:
    if torch.is_tensor(state.get("step")):
        state["step"].fill_(steps)
    elif "step" in state:
        state["step"] = steps


def _prime(optimizer: torch.optim.Optimizer, owners: list[Slot]) -> None:
    """Let an optimizer make its state, in its own way, by a step that changes nothing: no gradient, no learning rate."""
    kept = [(group["params"], group["lr"]) for group in optimizer.param_groups]
    for number, group in enumerate(optimizer.param_groups):
        group["params"] = [slot.owner for slot in owners if slot.group == number]
        group["lr"] = 0.0
    grads = [slot.owner.grad for slot in owners]
    for slot in owners:
        slot.owner.grad = torch.zeros_like(slot.owner)
    optimizer.step()
    for slot, grad in zip(owners, grads, strict=True):
        slot.owner.grad = grad
    for group, (params, lr) in zip(optimizer.param_groups, kept, strict=True):
        group["params"], group["lr"] = params, lr
