"""Which models are Stable Diffusion 1, 2 or XL, told by their configs: the fields that matter and what they may be.

Fields that change a network within, such as its widths, may have any value. A field that no class has is refused, as
nobody would act on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import diffusers

from fame_accel.pipeline.checks import check_intact

SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete"),
        *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "UniPCMultistep", "SASolver", "LCM", "TCD"),
    )
)
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "controlnet": ("ControlNetModel",),
    "scheduler": SCHEDULERS,
}
# Text embeddings alone condition a UNet; XL's also takes the size of the pictures and a pooled embedding.
_CONDITIONING: dict[str, Sequence[Any]] = dict(
    addition_embed_type=(None, "text_time"),
    class_embed_type=(None,),
    num_class_embeds=(None,),
    encoder_hid_dim=(None,),
    encoder_hid_dim_type=(None,),
    mid_block_type=(None, "UNetMidBlock2DCrossAttn"),
    only_cross_attention=(False,),
    resnet_time_scale_shift=("default",),
)
_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
ALLOWED: dict[str, dict[str, Sequence[Any]]] = {
    "unet": dict(
        _CONDITIONING,
        in_channels=(4,),
        out_channels=(4,),
        center_input_sample=(False,),
        dual_cross_attention=(False,),
        time_cond_proj_dim=(None,),
        time_embedding_type=("positional",),
        attention_type=("default",),
        class_embeddings_concat=(False,),
        cross_attention_norm=(None,),
        mid_block_only_cross_attention=(None, False),
    ),
    "vae": dict(
        in_channels=(3,),
        out_channels=(3,),
        latent_channels=(4,),
        shift_factor=(None, 0),
        latents_mean=(None,),
        latents_std=(None,),
    ),
    "controlnet": dict(_CONDITIONING, in_channels=(4,), conditioning_channels=(3,), global_pool_conditions=(False,)),
    "scheduler": dict(
        prediction_type=("epsilon", "v_prediction"),
        beta_schedule=("linear", "scaled_linear", "squaredcos_cap_v2"),
        variance_type=(None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        timestep_type=("discrete",),
        sigma_min=(None,),
        sigma_max=(None,),
        use_flow_sigmas=(None, False),
        use_dynamic_shifting=(None, False),
    ),
}
_OTHER = "other models than Stable Diffusion 1, 2 and XL are not supported"
# Left in the config of a UNet by diffusers' EMAModel.
_EMA = frozenset(
    ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
)


def check_part(name: str, part: Any) -> None:
    """`check_config` of a model or scheduler; one of a subclass, or compiled, passes as well."""
    classes = [cls.__name__ for cls in type(getattr(part, "_orig_mod", part)).__mro__]
    check_config(name, part.config, next((kind for kind in classes if kind in CLASSES[name]), classes[0]))


def check_config(part: str, config: Mapping[str, Any], kind: str | None = None) -> None:
    """Raise ValueError unless a config is one of Stable Diffusion's.

    Args:
        part: "unet", "vae", "controlnet" or "scheduler".
        config: of it; a field that is left out has the default of its class.
        kind: name of its class; if not given, the config says it.
    """
    kind = str(config.get("_class_name")) if kind is None else kind
    if kind not in CLASSES[part]:
        raise ValueError(f"{part} must be a {_kinds(part)}, got a {kind}: {_OTHER}")
    known = _EMA.union(*(_parameters(name) for name in CLASSES[part]))
    if unknown := sorted(name for name in config if name not in known and not name.startswith("_")):
        raise ValueError(f"{part} must be a {_kinds(part)}, got one with {', '.join(unknown)}: {_OTHER}")
    for field, allowed in ALLOWED[part].items():
        if field in config:
            _check(part, field, config[field], config[field] in allowed, _listed(allowed))
    for field, blocks in _BLOCKS.items() if part != "vae" else ():
        names = config.get(field) or ()
        _check(part, field, list(names), set(names) <= set(blocks), f"made of {_listed(blocks)}")
    if part == "scheduler" and config.get("rescale_betas_zero_snr"):
        kind = config.get("prediction_type", "epsilon")
        _check(part, "rescale_betas_zero_snr", True, kind == "v_prediction", f"false with prediction_type {kind}")


def check_conditioning(unet: Mapping[str, Any], xl: bool, widths: Sequence[int], name: str = "unet") -> None:
    """Raise ValueError unless a UNet, or a ControlNet, takes what the text encoders give.

    Args:
        unet: its config.
        xl: whether the pipeline is that of Stable Diffusion XL.
        widths: of the text encoders' hidden states.
        name: "unet" or "controlnet".
    """
    wanted = "text_time" if xl else None
    got = unet.get("addition_embed_type")
    _check(
        name,
        "addition_embed_type",
        got,
        got == wanted,
        f"{_shown(wanted)} in Stable Diffusion {'XL' if xl else '1 or 2'}",
    )
    width = unet.get("cross_attention_dim", 1280)  # diffusers' default
    _check(name, "cross_attention_dim", width, width == sum(widths), f"{sum(widths)} for these text encoders")


def check_parts(pipeline: Any, xl: bool, text_encoders: Sequence[Any]) -> None:
    """Raise ValueError unless a pipeline's unet, vae and controlnet are those of Stable Diffusion, and fit each other.

    Its scheduler is checked when it becomes DDIM's.
    """
    check_intact(pipeline.unet)
    widths = [encoder.config.hidden_size for encoder in text_encoders]
    check_part("vae", pipeline.vae)
    for name, model in [("unet", pipeline.unet), *(("controlnet", network) for network in controlnets(pipeline))]:
        check_part(name, model)
        check_conditioning(model.config, xl, widths, name)


def controlnets(pipeline: Any) -> list[Any]:
    """The ControlNets of a pipeline."""
    if pipeline.controlnet is None:
        return []
    return list(getattr(pipeline.controlnet, "nets", [pipeline.controlnet]))


def _check(part: str, field: str, value: Any, passed: bool, wanted: str) -> None:
    if not passed:
        raise ValueError(f"{part}: {field} must be {wanted}, got {_shown(value)}: {_OTHER}")


def _kinds(part: str) -> str:
    return "scheduler of noise such as DDIMScheduler" if part == "scheduler" else CLASSES[part][0]


def _parameters(kind: str) -> frozenset[str]:
    """The fields of a class's config; none where a package that it needs is missing."""
    return frozenset(signature(getattr(diffusers, kind).__init__).parameters) - {"self", "args", "kwargs"}


def _listed(values: Sequence[Any]) -> str:
    shown = [_shown(value) for value in values]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _shown(value: Any) -> str:
    """As in JSON, but for quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
