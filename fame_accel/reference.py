"""The specification of layout attention, eager: the public name of `fame_accel.core.reference`."""

from fame_accel.core.reference import layout_attention

__all__ = ["layout_attention"]
