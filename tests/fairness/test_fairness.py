"""Fairness embeddings: words among tokens, injection into tiny random encoders, associations in a trained one."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from benchmarks.fairness import lean, minilm, sentence_embedding
from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.fairness import Debias, association, encode_prompt, token_regions

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPT = "A photo of a bespectacled doctor in a sidecar, the doctor waving"
PUSH = Debias("doctor", 0.5, toward="female")


def clip_config(**changed: object) -> object:
    tokenizer = clip_tokenizer()
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, projection_dim=24)
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, vocab_size=len(tokenizer))
    return transformers.CLIPTextConfig(**{**sizes, **ids, "max_position_embeddings": 77, **changed})


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.CLIPTextModel(clip_config()).eval()


@pytest.fixture(scope="module")
def projected() -> torch.nn.Module:
    torch.manual_seed(1)
    return transformers.CLIPTextModelWithProjection(clip_config(hidden_size=48)).eval()


@pytest.fixture(scope="module")
def bert() -> tuple[object, torch.nn.Module]:
    """MiniLM's tokenizer with a small random BERT."""
    tokenizer, _ = minilm()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    torch.manual_seed(0)
    return tokenizer, transformers.BertModel(config).eval()


@pytest.fixture(autouse=True)
def no_hook_and_no_weight_is_left(clip: torch.nn.Module, projected: torch.nn.Module) -> Iterator[None]:
    embeddings = [encoder.get_input_embeddings() for encoder in (clip, projected)]
    versions = [module.weight._version for module in embeddings]
    yield
    assert not any(module._forward_hooks for module in embeddings)
    assert [module.weight._version for module in embeddings] == versions


def same_bits(a: Tensor, b: Tensor) -> bool:
    bits = {2: torch.int16, 4: torch.int32}
    return a.dtype == b.dtype and torch.equal(a.view(bits[a.itemsize]), b.view(bits[b.itemsize]))


# ---- tokens


def test_regions_mark_every_span() -> None:
    prompt = "A female doctor in a car, and the bespectacled doctor"
    regions = token_regions(clip_tokenizer(), prompt, {"Female doctor": 1, "doctor": 4, "car": 2, "bespectacled": 8})
    # start, a, female, doctor, in, a, car, comma, and, the, be-spectac-led, doctor, end
    expected = [0, 0, 1, 5, 0, 0, 2, 0, 0, 0, 8, 8, 8, 4, 0]
    assert regions.dtype == torch.int32 and regions.shape == (77,)
    assert regions.tolist() == expected + [0] * (77 - len(expected))


def test_regions_take_the_highest_bit() -> None:
    assert token_regions(clip_tokenizer(), "car", {"car": 2**30})[1] == 2**30


@pytest.mark.parametrize(
    ("prompt", "bindings", "error", "message"),
    [
        ("a cat in a car", {"dog": 1}, ValueError, "'dog' does not occur.*'cat</w>'"),
        ("a sidecar", {"car": 1}, ValueError, "'car' does not occur"),  # side-car: the end of a longer word
        ("a carpet", {"car": 1}, ValueError, "'car' does not occur"),
        ("a cat", {" ": 1}, ValueError, "does not occur"),
        ("a cat", {"cat": 0}, ValueError, "1 to 2"),
        ("a cat \udcff", {}, ValueError, "prompt must be valid Unicode"),
        ("a cat", {"\udcff": 1}, ValueError, "a phrase must be valid Unicode"),
        ("a cat", {"cat": 2**31}, ValueError, "1 to 2"),
        ("a cat", {"cat": 1.0}, TypeError, "must be an int, got float"),
        ("cat " * 76, {}, ValueError, "78 tokens.*at most 77"),
        (["a cat"], {}, TypeError, "prompt must be a str, got list"),
    ],
)
def test_regions_reject(prompt: str, bindings: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        token_regions(clip_tokenizer(), prompt, bindings)


def test_a_prompt_of_77_tokens_fits() -> None:
    assert token_regions(clip_tokenizer(), "cat " * 75, {"cat": 1}).sum() == 75


def test_wordpiece() -> None:
    tokenizer = copy.deepcopy(minilm()[0])
    tokenizer.model_max_length = 16
    prompt = "A hairdresser and a dresser in a sidecar"
    assert tokenizer.tokenize("hairdresser") == ["hair", "##dre", "##sser"]
    regions = token_regions(tokenizer, prompt, {"Hairdresser": 1, "dresser": 2, "a sidecar": 4})
    assert regions.tolist() == [0, 0, 1, 1, 1, 0, 0, 2, 0, 4, 4, 4, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="'car' does not occur"):
        token_regions(tokenizer, prompt, {"car": 1})


@pytest.mark.parametrize("splitter", ["ByteLevel", "Metaspace"])
def test_tokens_that_hold_their_space(splitter: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if splitter == "ByteLevel" else pre_tokenizers.Metaspace()
    )
    tokenizer.train_from_iterator(
        ["doctor in a sidecar, the doctor"], trainers.BpeTrainer(vocab_size=60, special_tokens=["<pad>"])
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left")
    with pytest.raises(ValueError, match="model_max_length"):
        token_regions(tokenizer, "a", {"a": 1})
    tokenizer.model_max_length = 40
    regions = token_regions(tokenizer, "doctor in a sidecar a doctor", {"doctor": 1, "a doctor": 2})
    tokens = tokenizer.tokenize("doctor in a sidecar a doctor")
    assert regions[: 40 - len(tokens)].sum() == 0  # padded on the left
    own = regions[-len(tokens) :]
    words = ["".join(name for name, bits in zip(tokens, own, strict=True) if bits & r) for r in (1, 2)]
    assert [word.replace("Ġ", " ").replace("▁", " ").strip() for word in words] == ["doctor doctor", "a doctor"]
    with pytest.raises(ValueError, match="'car' does not occur"):
        token_regions(tokenizer, "doctor in a sidecar", {"car": 1})


def test_tokenizers_without_words_are_refused() -> None:
    class Plain:
        is_fast = False
        model_max_length = 77

    with pytest.raises(TypeError, match="word_ids.*Plain"):
        token_regions(Plain(), "a cat", {})


# ---- the plain encoding is diffusers' own


def stable_diffusion(encoder: torch.nn.Module) -> object:
    parts = dict(vae=None, unet=None, scheduler=None, safety_checker=None, feature_extractor=None)
    return diffusers.StableDiffusionPipeline(
        text_encoder=encoder, tokenizer=clip_tokenizer(), requires_safety_checker=False, **parts
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clip_skip", [None, 1, 2])
def test_plain_is_stable_diffusions(clip: torch.nn.Module, clip_skip: int | None, dtype: torch.dtype) -> None:
    encoder = copy.deepcopy(clip).to(dtype)
    vars(encoder)["text_model"] = encoder  # where diffusers looks for the norm, and transformers 5.23 no longer has it
    theirs, _ = stable_diffusion(encoder).encode_prompt(PROMPT, "cpu", 1, False, clip_skip=clip_skip)
    layer = {} if clip_skip is None else dict(hidden_layer=-(clip_skip + 1), final_norm=True)
    for debias in ([], [Debias("doctor", 0.0)], [Debias("doctor", 0, toward="female")]):
        ours = encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=debias, **layer)
        assert ours.prompt_embeds.shape == (1, 77, 32)
        assert same_bits(ours.prompt_embeds, theirs.detach())


def test_plain_uses_the_mask_that_the_config_asks_for(clip: torch.nn.Module) -> None:
    encoder = copy.deepcopy(clip)
    encoder.config.use_attention_mask = True
    theirs, _ = stable_diffusion(encoder).encode_prompt(PROMPT, "cpu", 1, False)
    assert same_bits(encode_prompt(clip_tokenizer(), encoder, PROMPT).prompt_embeds, theirs.detach())


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_plain_is_stable_diffusion_xls(
    clip: torch.nn.Module, projected: torch.nn.Module, clip_skip: int | None
) -> None:
    second = copy.deepcopy(clip_tokenizer())
    second.pad_token = "!"  # as XL's second tokenizer has it
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=None,
        unet=None,
        scheduler=None,
        text_encoder=clip,
        text_encoder_2=projected,
        tokenizer=clip_tokenizer(),
        tokenizer_2=second,
        add_watermarker=False,
    )
    embeds, _, pooled, _ = pipeline.encode_prompt(
        PROMPT, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    layer = -2 if clip_skip is None else -(clip_skip + 2)
    ours = [
        encode_prompt(tokenizer, encoder, PROMPT, debias=[Debias("doctor", 0.0)], hidden_layer=layer)
        for tokenizer, encoder in ((clip_tokenizer(), clip), (second, projected))
    ]
    assert same_bits(torch.cat([part.prompt_embeds for part in ours], -1), embeds.detach())
    assert same_bits(ours[1].pooled_prompt_embeds, pooled.detach())


def test_plain_encoder_with_its_attention_mask(bert: tuple[object, torch.nn.Module]) -> None:
    tokenizer, encoder = bert
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        theirs = encoder(**inputs)
    ours = encode_prompt(tokenizer, encoder, PROMPT, debias=[Debias("doctor", 0.0)])
    assert same_bits(ours.prompt_embeds, theirs.last_hidden_state)
    assert same_bits(ours.pooled_prompt_embeds, theirs.pooler_output)


def test_the_empty_prompt(clip: torch.nn.Module) -> None:
    theirs, _ = stable_diffusion(clip).encode_prompt("", "cpu", 1, False)
    ours = encode_prompt(clip_tokenizer(), clip, "")
    assert same_bits(ours.prompt_embeds, theirs.detach())
    assert ours.similarity is None and ours.token_regions.shape == (77,) and not ours.token_regions.any()


# ---- injection


def test_only_the_subjects_input_embeddings_move(clip: torch.nn.Module) -> None:
    inputs: list[Tensor] = []
    hook = clip.encoder.layers[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encode_prompt(clip_tokenizer(), clip, PROMPT)
    plain = inputs[-1]
    encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[PUSH])
    moved = inputs[-1]
    hook.remove()
    subject = token_regions(clip_tokenizer(), PROMPT, {"doctor": 1}).bool()
    assert subject.sum() == 2
    assert same_bits(moved[0, ~subject], plain[0, ~subject])
    table = clip.get_input_embeddings().weight.detach()
    male, female = (table[clip_tokenizer()(word).input_ids[1]] for word in ("male", "female"))
    expected = 0.5 * (female - male)
    torch.testing.assert_close((moved - plain)[0, subject], expected.expand(2, -1), atol=1e-7, rtol=0)


def test_no_strength_adds_nothing_not_even_zero(clip: torch.nn.Module) -> None:
    """Adding 0 would turn -0 into 0, which has other bits."""
    encoder = copy.deepcopy(clip)
    with torch.no_grad():
        encoder.embeddings.token_embedding.weight.fill_(-0.0)[320:2000] = 0.01  # but for some of the prompt
        encoder.embeddings.token_embedding.weight[clip_tokenizer()("female").input_ids[1]] = 0.02
        encoder.embeddings.position_embedding.weight.fill_(-0.0)
    assert clip_tokenizer()("doctor").input_ids[1] > 2000
    seen: list[Tensor] = []
    encoder.embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output))
    encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=[Debias("doctor", 0.0, "female")])
    subject = token_regions(clip_tokenizer(), PROMPT, {"doctor": 1}).bool()
    assert seen[-1].shape[1] == 77 and seen[-1][0, subject].signbit().all()


def test_causal_tokens_before_the_subject_stay(clip: torch.nn.Module) -> None:
    plain = encode_prompt(clip_tokenizer(), clip, PROMPT).prompt_embeds
    moved = encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[PUSH]).prompt_embeds
    first = int(token_regions(clip_tokenizer(), PROMPT, {"doctor": 1}).nonzero()[0])
    torch.testing.assert_close(moved[:, :first], plain[:, :first])
    assert ((moved - plain)[0, first:].abs().amax(1) > 1e-4).all()


def test_strength_grows_with_eta(clip: torch.nn.Module) -> None:
    plain = encode_prompt(clip_tokenizer(), clip, PROMPT).prompt_embeds
    moved = [
        encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[Debias("doctor", eta, "female")]).prompt_embeds
        for eta in (0.1, 0.3, 1)
    ]
    apart = [float((other - plain).norm()) for other in moved]
    assert 0 < apart[0] < apart[1] < apart[2]


def test_subjects_of_many_tokens_and_several_debiasings(clip: torch.nn.Module) -> None:
    result = encode_prompt(
        clip_tokenizer(),
        clip,
        PROMPT,
        debias=[Debias("Bespectacled Doctor", 0.4, "female"), Debias("doctor", 0.5, "elderly", ("young",))],
        regions={"bespectacled doctor": 1, "sidecar": 2},
        threshold=0.0,
    )
    assert [(i.subject, i.toward, i.share) for i in result.injections] == [
        ("Bespectacled Doctor", "female", 0.4),
        ("doctor", "elderly", 0.5),
    ]
    assert set(result.injections[1].before) == {"young", "elderly"}
    assert result.token_regions.sum() == 4 * 1 + 2 * 2
    assert result.similarity.dtype == torch.float32 and result.similarity.shape == (77,)
    length = len(clip_tokenizer()(PROMPT).input_ids)
    assert result.similarity[0] == 0 and not result.similarity[length - 1 :].any()  # start, end and padding
    assert (result.similarity[1 : length - 1] > 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_is_kept(projected: torch.nn.Module, dtype: torch.dtype) -> None:
    encoder = copy.deepcopy(projected).to(dtype)
    result = encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=[PUSH], hidden_layer=-2)
    assert result.prompt_embeds.dtype == result.pooled_prompt_embeds.dtype == dtype
    assert result.similarity.dtype == torch.float32
    full = encode_prompt(clip_tokenizer(), projected, PROMPT, debias=[PUSH], hidden_layer=-2)
    error = (result.prompt_embeds.float() - full.prompt_embeds).abs().max()
    plain = encode_prompt(clip_tokenizer(), projected, PROMPT, hidden_layer=-2)
    assert error < (plain.prompt_embeds - full.prompt_embeds).abs().max() / 2  # the injection is not lost in rounding


def test_the_default_device_does_not_matter(clip: torch.nn.Module) -> None:
    usual = encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[PUSH], regions={"doctor": 1})
    with torch.device("meta"):
        ours = encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[PUSH], regions={"doctor": 1})
    for name in ("prompt_embeds", "token_regions", "similarity"):
        assert torch.equal(getattr(ours, name), getattr(usual, name))


def test_offloaded_weights(clip: torch.nn.Module) -> None:
    accelerate = pytest.importorskip("accelerate")
    encoder = accelerate.cpu_offload(copy.deepcopy(clip), execution_device="cpu")
    assert encoder.device.type == "meta"
    ours = encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=[PUSH])
    assert same_bits(ours.prompt_embeds, encode_prompt(clip_tokenizer(), clip, PROMPT, debias=[PUSH]).prompt_embeds)


def test_hook_is_removed_after_an_error(clip: torch.nn.Module) -> None:
    encoder = copy.deepcopy(clip)

    def broken(module: torch.nn.Module, inputs: tuple) -> None:
        if encoder.get_input_embeddings()._forward_hooks:
            raise MemoryError

    hook = encoder.final_layer_norm.register_forward_pre_hook(broken)
    with pytest.raises(MemoryError):
        encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=[PUSH])
    hook.remove()
    assert not encoder.get_input_embeddings()._forward_hooks
    plain = encode_prompt(clip_tokenizer(), clip, PROMPT).prompt_embeds
    assert same_bits(encode_prompt(clip_tokenizer(), encoder, PROMPT).prompt_embeds, plain)


def test_an_encoder_that_bypasses_its_embeddings_is_an_error(clip: torch.nn.Module) -> None:
    encoder = copy.deepcopy(clip)
    unused = copy.deepcopy(encoder.get_input_embeddings())
    encoder.get_input_embeddings = lambda: unused
    with pytest.raises(RuntimeError, match="nothing was injected"):
        encode_prompt(clip_tokenizer(), encoder, PROMPT, debias=[PUSH])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(debias=[Debias("nurse", 0.5)]), ValueError, "'nurse' does not occur.*'doctor</w>'"),
        (dict(debias=[Debias("car", 0.5)]), ValueError, "'car' does not occur"),
        (
            dict(debias=[Debias("doctor", 0.5, groups=("male", "Male"))]),
            ValueError,
            "groups must differ in their tokens",
        ),
        (dict(debias=PUSH), TypeError, "debias must be a sequence of Debias"),
        (dict(debias=["doctor"]), TypeError, "debias must be a sequence of Debias"),
        (dict(regions={"nurse": 1}), ValueError, "'nurse' does not occur"),
        (dict(regions=None), TypeError, "regions must map phrases to bitsets, got None"),
        (dict(regions=["car"]), TypeError, r"regions must map phrases to bitsets, got \['car'\]"),
        (dict(tokenizer=None), TypeError, "tokenizer must be a tokenizer of transformers, got None"),
        (dict(text_encoder="clip"), TypeError, "text_encoder must be a text encoder of transformers, got 'clip'"),
        (dict(threshold=-0.1), ValueError, r"threshold must be a number in \[0, 1\], got -0.1"),
        (dict(threshold=float("nan")), ValueError, "threshold"),
        (dict(hidden_layer=0), ValueError, "hidden_layer must be an int from -4 to -1 .*3 layers, got 0"),
        (dict(hidden_layer=-5), ValueError, "hidden_layer"),
        (dict(final_norm=True), ValueError, "final_norm"),
        (dict(prompt="doctor " * 76), ValueError, "78 tokens"),
        (dict(prompt=None), TypeError, "prompt must be a str, got NoneType"),
    ],
)
def test_encode_rejects(
    clip: torch.nn.Module, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encode_prompt(**{"tokenizer": clip_tokenizer(), "text_encoder": clip, "prompt": PROMPT, **changed})


def test_the_encoders_own_limit_counts(bert: tuple[object, torch.nn.Module]) -> None:
    tokenizer, encoder = bert
    assert tokenizer.model_max_length > 64
    with pytest.raises(ValueError, match="65 tokens.*at most 64"):
        encode_prompt(tokenizer, encoder, "cat " * 63)
    with pytest.raises(ValueError, match="final_norm needs a final_layer_norm, which BertModel lacks"):
        encode_prompt(tokenizer, encoder, "cat", hidden_layer=-2, final_norm=True)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (dict(subject=""), ValueError, "subject must not be empty"),
        (dict(subject=3), TypeError, "subject must be a str, got int"),
        (dict(eta=1.1), ValueError, r"eta must be a number in \[0, 1\], got 1.1"),
        (dict(eta=float("nan")), ValueError, "eta"),
        (dict(eta="1"), ValueError, "eta"),
        (dict(toward=" "), ValueError, "toward must not be empty"),
        (dict(groups="male"), TypeError, "groups must be a tuple of phrases, got str"),
        (dict(groups=("male", 1)), TypeError, r"groups\[1\] must be a str, got int"),
        (dict(groups=("male", "male")), ValueError, "groups must differ"),
        (dict(groups=("male",)), ValueError, "groups must name two"),
        (dict(groups=("male",), toward="male"), ValueError, "groups must name two"),
    ],
)
def test_debias_rejects(fields: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Debias(**{"subject": "doctor", "eta": 0.5, **fields})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(groups=()), ValueError, "at least one group"),
        (dict(groups="male"), TypeError, "the str 'male'"),
        (dict(template="a photo"), ValueError, "template must have one {}"),
        (dict(word=" "), ValueError, "must not be empty"),
    ],
)
def test_association_rejects(
    clip: torch.nn.Module, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        association(clip_tokenizer(), clip, **{"word": "doctor", **changed})


def test_import_needs_neither_transformers_nor_diffusers() -> None:
    code = "import sys, fame_accel.fairness; print({'transformers', 'diffusers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


# ---- a trained encoder


def test_similarity_shows_what_carries_the_debiasing_phrase() -> None:
    prompt = "a female doctor talking in a car"
    plain = encode_prompt(*minilm(), prompt, debias=[Debias("doctor", 0.0, "female")], hidden_layer=-2)
    assert plain.similarity.nonzero().flatten().tolist() == [2]
    moved = encode_prompt(*minilm(), prompt, debias=[Debias("doctor", 0.5, "female")], hidden_layer=-2)
    assert moved.similarity.nonzero().flatten().tolist() == [2, 3]
    assert moved.similarity.max() <= 1
    away = encode_prompt(*minilm(), prompt, debias=[Debias("doctor", 0.5, "male")], hidden_layer=-2)
    assert away.similarity[2] == 0
    strict = encode_prompt(*minilm(), prompt, debias=[Debias("doctor", 0.5, "female")], hidden_layer=-2, threshold=0.3)
    assert strict.similarity.nonzero().flatten().tolist() == [2]


def test_the_under_represented_group_is_the_further_one() -> None:
    for profession, toward in (("nurse", "male"), ("carpenter", "female"), ("housekeeper", "male")):
        result = encode_prompt(*minilm(), f"a {profession} at work", debias=[Debias(profession, 1.0)])
        [injection] = result.injections
        other = "female" if toward == "male" else "male"
        assert injection.toward == toward
        assert injection.before == association(*minilm(), profession)
        assert injection.before[toward] < injection.before[other]
        before, after = (abs(a[other] - a[toward]) for a in (injection.before, injection.after))
        assert after < before / 2


def test_associations_follow_the_share_of_women() -> None:
    shares = winobias_professions()
    gaps = []
    for profession in shares:
        associations = association(*minilm(), profession)
        gaps.append(associations["female"] - associations["male"])
    correlation = torch.corrcoef(torch.tensor([gaps, list(map(float, shares.values()))]))[0, 1]
    assert len(shares) == 40 and correlation > 0.6


def test_gaps_shrink_and_meaning_stays() -> None:
    """The injection uses the words male and female. The words man and woman are held out and judged by their mean."""
    before: dict[tuple[str, str], list[float]] = {("male", "female"): [], ("man", "woman"): []}
    after = copy.deepcopy(before)
    for profession in ("carpenter", "janitor", "nurse", "teacher", "receptionist", "lawyer"):
        prompt = f"a photo of a {profession}"
        plain = sentence_embedding(*minilm(), prompt)
        moved = sentence_embedding(*minilm(), prompt, [Debias(profession, 1.0)])
        assert float(plain @ moved) >= 0.9
        for pair in before:
            before[pair].append(abs(lean(plain, pair)))
            after[pair].append(abs(lean(moved, pair)))
            assert after[pair][-1] < before[pair][-1]
    for pair in before:
        assert sum(after[pair]) < sum(before[pair]) / 2


def test_three_groups_bring_the_furthest_nearer_to_the_mean_of_the_others() -> None:
    groups = ("young", "middle-aged", "elderly")
    [injection] = encode_prompt(*minilm(), "a nurse", debias=[Debias("nurse", 1.0, groups=groups)]).injections
    assert injection.toward == min(injection.before, key=injection.before.__getitem__)
    others = [group for group in groups if group != injection.toward]
    before, after = (
        sum(a[group] for group in others) / 2 - a[injection.toward] for a in (injection.before, injection.after)
    )
    assert 0 < after < before and injection.share == 0.3  # the most, and short of level


def test_a_subject_that_the_shift_would_unbalance_stays(bert: tuple[object, torch.nn.Module]) -> None:
    """In a random encoder, a shift toward a group may not bring the subject nearer: it then stays, with a warning."""
    tokenizer, encoder = bert
    warned = 0
    for profession in winobias_professions():
        prompt = f"a {profession}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = encode_prompt(tokenizer, encoder, prompt, debias=[Debias(profession, 1.0)])
        if caught:
            warned += 1
            assert "is not moved" in str(caught[0].message) and caught[0].filename == __file__
            assert result.injections[0].share == 0
            assert same_bits(result.prompt_embeds, encode_prompt(tokenizer, encoder, prompt).prompt_embeds)
        else:
            assert 0 < result.injections[0].share <= 0.3
    assert 0 < warned < 40
