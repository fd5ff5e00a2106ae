"""Foreign values in place of names, flags, counts, devices and layouts: one line that names the argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import FRAMES, layout

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention, plan_attention, time_weights
from fame_accel.core.checks import check_device, shown

N, D, HUGE = 12, 16, 10**5000  # repr() of HUGE raises
TABLE = torch.zeros(2, 2, dtype=torch.bool)
MASKS = torch.ones(1, FRAMES, 4, 4, dtype=torch.bool)
PLAIN = Modulation()


def _attend(**options: object) -> object:
    query = torch.zeros(1, 1, N, D)
    return layout_attention(query, query, query, layout(N), **options)  # type: ignore[call-overload]


def _tokens(**options: object) -> object:
    return SpaceTimeLayout.from_masks(MASKS).tokens(**{"height": 2, "width": 2, **options})  # type: ignore[arg-type]


CALLS: dict[str, tuple[Callable[[object], object], list[tuple[object, type[Exception]]]]] = {
    "return_lse": (lambda x: _attend(return_lse=x), [(1, TypeError), ("no", TypeError), (None, TypeError)]),
    "backend": (lambda x: _attend(backend=x), [(np.zeros(3), ValueError), (TABLE, ValueError), ([], ValueError)]),
    "scale": (lambda x: _attend(scale=x), [(HUGE, ValueError), (TABLE, TypeError)]),
    "rest": (lambda x: SpaceTimeLayout.from_masks(MASKS, rest=x), [("no", TypeError), (1, TypeError)]),
    "temporal": (lambda x: SpaceTimeLayout.from_masks(MASKS, temporal=x), [(TABLE, ValueError), (HUGE, ValueError)]),
    "height": (lambda x: _tokens(height=x), [(TABLE, ValueError), (HUGE, ValueError), (2.0, ValueError)]),
    "device": (lambda x: _tokens(device=x), [(1.5, TypeError), ("gpu", ValueError), (True, TypeError)]),
    "device of to": (lambda x: layout(N).to(x), [(None, TypeError), ("gpu", ValueError), (-1, ValueError)]),
    "num_frames": (
        lambda x: TokenLayout(torch.zeros(3).int(), torch.zeros(3).int(), x),
        [(HUGE, ValueError), (TABLE, ValueError)],
    ),
    "layouts": (TokenLayout.cat, [(None, TypeError), (3, TypeError)]),
    "key_layout": (layout(N).size_regularization, [(3, TypeError), ("x", TypeError), (TABLE, TypeError)]),
    "rate": (lambda x: time_weights(3, x), [(True, ValueError), (HUGE, ValueError), (TABLE, ValueError)]),
    "kind": (lambda x: time_weights(3, 0.1, x), [(TABLE, ValueError), (np.zeros(3), ValueError)]),
    "leakage": (lambda x: Modulation.region_mask(3, leakage=x), [(True, ValueError), (TABLE, ValueError)]),
    "decay_on": (lambda x: Modulation.fame(3, decay_on=x), [(TABLE, ValueError), (None, ValueError)]),
    "key_frames": (lambda x: Modulation.videograin(3, x), [(HUGE, ValueError), (TABLE, ValueError)]),
    "query_frames": (lambda x: Modulation.block([[PLAIN]], x, [1]), [(None, TypeError), (1, TypeError)]),
    "query_frames[0]": (lambda x: Modulation.block([[PLAIN]], [x], [1]), [(None, ValueError), (-1, ValueError)]),
    "head_dim": (
        lambda x: plan_attention(layout(N), head_dim=x),
        [(None, ValueError), ("x", ValueError), (0, ValueError), (257, ValueError), (True, ValueError)],
    ),
    "dtype": (
        lambda x: plan_attention(layout(N), dtype=x),
        [(None, TypeError), ("float16", TypeError), (torch.int32, TypeError), (np.zeros(3), TypeError)],
    ),
    "weighted_keys": (lambda x: plan_attention(layout(N), weighted_keys=x), [(None, TypeError), ("no", TypeError)]),
}


@pytest.mark.parametrize(
    ("name", "call", "value", "error"),
    [
        pytest.param(name.split(" ")[0], call, value, error, id=f"{name} {type(value).__name__} {shown(value)[:12]}")
        for name, (call, values) in CALLS.items()
        for value, error in values
    ],
)
def test_a_foreign_value_is_named_in_one_line(name, call, value, error):
    with pytest.raises(error) as raised:
        call(value)
    message = str(raised.value)
    assert message.startswith(name) and " must " in message and " got " in message
    assert "\n" not in message and len(message) < 250


def test_layouts_of_different_batches_have_no_size_regularization():
    with pytest.raises(ValueError, match="key_layout must have the batch of this layout, 3, got 2"):
        layout(N, batch=3).size_regularization(layout(N, batch=2))
    assert layout(N, batch=3).size_regularization(layout(N)).shape == (3, N)
    with pytest.raises(ValueError, match="key_layout must be on the device of this layout, cpu, got meta"):
        layout(N).size_regularization(layout(N).to("meta"))


@pytest.mark.parametrize("name", ["query", "row_strength", "masks", "region", "frame", "strength_table", "decay"])
def test_sparse_tensors_are_refused(name):
    query, ids = torch.zeros(1, 1, N, D), torch.zeros(N, dtype=torch.int32)
    calls = {
        "query": lambda: layout_attention(query.to_sparse(), query, query, layout(N)),
        "row_strength": lambda: _attend(row_strength=torch.zeros(N).to_sparse()),
        "masks": lambda: SpaceTimeLayout.from_masks(MASKS.to_sparse()),
        "region": lambda: TokenLayout(ids.to_sparse(), ids, 1),
        "frame": lambda: TokenLayout(ids, ids.to_sparse(), 1),
        "strength_table": lambda: Modulation(torch.zeros(2, 1, 1).to_sparse()),
        "decay": lambda: Modulation.fame(2, torch.ones(2, 2).to_sparse()),
    }
    with pytest.raises(TypeError, match=f"{name} must be a dense tensor, got one that is torch.sparse_coo"):
        calls[name]()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    query = torch.zeros(1, 1, N, D)
    with pytest.raises(TypeError, match="query must be a dense tensor, got one that is nested"):
        layout_attention(torch.nested.nested_tensor([query[0]]), query, query, layout(N))


def test_decay_is_real_and_has_values():
    with pytest.raises(TypeError, match="decay must be a number or a table of real weights, got torch.complex64"):
        Modulation.fame(2, torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="decay must have values"):
        Modulation.fame(2, torch.ones(2, 2, device="meta"))
    with pytest.raises(ValueError, match="masks must have values where rest=True"):
        SpaceTimeLayout.from_masks(MASKS.to("meta"), rest=True)


def test_a_window_beyond_all_frames_keeps_all():
    assert Modulation.frames(3, HUGE) == Modulation.frames(3, 2)


def test_devices_have_names():
    assert check_device("device", "cpu") == check_device("device", torch.device("cpu")) == torch.device("cpu")
