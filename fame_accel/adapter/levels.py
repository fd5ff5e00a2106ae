"""The level of a UNet's layer."""


def halvings(name: str, levels: int) -> int:
    """How often the latents are halved on the way to a layer of a UNet with so many levels."""
    block, _, rest = name.partition(".")
    if block == "mid_block":
        return levels - 1
    index = rest.partition(".")[0]
    if block not in ("down_blocks", "up_blocks") or not index.isdigit():
        raise ValueError(f"model_or_pipeline has an attention layer in a place unknown to FAME: {name}")
    return int(index) if block == "down_blocks" else levels - 1 - int(index)
