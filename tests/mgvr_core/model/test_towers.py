"""CLIP's towers: what is computed shorter or with more outputs is what open_clip itself computes."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch.nn.functional import pad

from mgvr_core.errors import MgvrError
from mgvr_core.model.spec import named_architecture
from mgvr_core.model.towers import build_clip, encode_images, encode_texts, encode_words, has_patches

VISION = {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


def towers(**changes: Any) -> CLIP | CustomTextCLIP:
    config = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT} | changes
    return build_clip(config).eval()


@torch.no_grad()
def test_texts_of_32_tokens_are_encoded_as_among_77() -> None:
    clip, tokenize = towers(), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    texts = ["a red circle", "a man in a blue shirt is talking about how to fold a paper plane", ""]
    torch.testing.assert_close(encode_texts(clip, tokenize(texts, 32)), clip.encode_text(tokenize(texts, 77)))


@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "text tower of its own"])
@torch.no_grad()
def test_a_text_tower_that_sees_its_padding_gets_the_whole_length(custom: bool) -> None:
    text = {**TEXT, "context_length": 8, "vocab_size": 20, "no_causal_mask": True}
    clip = towers(text_cfg=text, custom_text=custom)
    ids = torch.tensor([[18, 3, 4, 19]])
    torch.testing.assert_close(encode_texts(clip, ids), clip.encode_text(pad(ids, (0, 4))))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "sees its padding"])
@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "text tower of its own"])
@pytest.mark.parametrize("pool", ["argmax", "eos"])
@torch.no_grad()
def test_words_are_the_tokens_up_to_the_end_through_the_texts_own_projection(
    bidirectional: bool, custom: bool, pool: str
) -> None:
    text = {**TEXT, "context_length": 8, "vocab_size": 20, "no_causal_mask": bidirectional}
    clip = towers(text_cfg={**text, "pool_type": pool, "eos_id": 19}, custom_text=custom)
    tower = clip.text if custom else clip
    ids = torch.tensor([[18, 3, 4, 7, 2, 19], [18, 5, 19, 0, 0, 0]])
    vectors, words, mask = encode_words(clip, ids)
    assert torch.equal(vectors, encode_texts(clip, ids))
    assert mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]

    whole = pad(ids, (0, 2))
    x = tower.token_embedding(whole) + tower.positional_embedding
    expected = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask)) @ tower.text_projection
    torch.testing.assert_close(words, expected[:, :6])
    torch.testing.assert_close(words[torch.arange(2), [5, 2]], vectors, msg="the end marker's word is the text")


@pytest.mark.parametrize("text", [{"pool_type": "last"}, {"embed_cls": True}], ids=["last token", "class token"])
def test_words_of_a_tower_that_pools_otherwise_are_refused(text: dict[str, Any]) -> None:
    clip = towers(text_cfg={**TEXT, "context_length": 8, "vocab_size": 20, **text}, custom_text=True)
    with pytest.raises(MgvrError, match="does not make a text's vector of its end marker"):
        encode_words(clip, torch.tensor([[18, 3, 4, 19]]))


@torch.no_grad()
def test_frames_are_the_same_with_patches_and_without() -> None:
    clip, images = towers(), torch.randn(3, 3, 16, 16)
    expected = clip.encode_image(images)
    alone, nothing = encode_images(clip, images, patches=False)
    frames, patches = encode_images(clip, images, patches=True)
    assert nothing is None
    assert patches.shape == (3, 4, 64)
    torch.testing.assert_close(alone, expected)
    torch.testing.assert_close(frames, expected)
    assert isinstance(clip.encode_image(images), torch.Tensor), "open_clip's own callers expect one tensor"


@torch.no_grad()
def test_patches_are_the_other_tokens_through_the_class_tokens_own_projection() -> None:
    clip, images = towers(), torch.randn(2, 3, 16, 16)
    visual = clip.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (2, 4, width)
    x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_post(visual.transformer(visual.ln_pre(x))) @ visual.proj
    frames, patches = encode_images(clip, images, patches=True)
    torch.testing.assert_close(frames, x[:, 0])
    torch.testing.assert_close(patches, x[:, 1:])


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({}, True),
        ({"pool_type": "avg"}, False),
        ({"pool_type": "tok", "final_ln_after_pool": True}, False),
        ({"attentional_pool": True}, False),
        ({"layers": (1, 1, 1, 1), "image_size": 32, "patch_size": None}, False),
    ],
    ids=["ViT", "mean pool", "norm after pool", "attention pool", "ResNet"],
)
def test_patches_exist_only_in_the_space_of_the_class_token(vision: dict[str, Any], expected: bool) -> None:
    assert has_patches(towers(vision_cfg={**VISION, **vision})) is expected


def test_a_configuration_that_open_clip_does_not_know_is_refused() -> None:
    with pytest.raises(MgvrError, match=r"can't build the model's towers.*no_such_key"):
        towers(vision_cfg={**VISION, "no_such_key": 1})


def test_models_that_need_a_decoder_are_refused() -> None:
    with pytest.raises(MgvrError, match="CoCa"):
        named_architecture("coca_ViT-B-32")
