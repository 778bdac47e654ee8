"""GradCache against plain autograd over the same chunks, dropout on, on a real Qwen2-VL. Many processes: test_training_processes.py.

What the reference does otherwise and these tests exclude (shared/REFERENCE.md §3.3): on one process `--grad_cache True` is
silently off and the whole batch runs at once; queries and targets are reduced one after the other; its chunks count rows,
however long they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.forward.qwen2vl_inputs import Batch
from mmsearch.training.objective.gradcache import cached_backward, chunks_by_cost
from mmsearch.training.objective.loss import ContrastiveBatch, ContrastiveLoss, LossSettings, bank_distillation
from tests.unit.test_vlm2vec import picture, random_embedder

PICTURES = {0: [picture(80, 60)], 4: [picture(60, 60, seed=1)], 5: [picture(56, 56, seed=2)] * 2}
PROMPTS = [
    "<|image_pad|> a query with a picture", "what?", "a longer query, of words alone",
    "its target", "<|image_pad|> target of the second", "<|video_pad|>", "hard negative of the third",
]  # fmt: skip
"""Three queries, their targets and a negative; pictures on both sides."""
ROWS = len(PROMPTS)
SETTINGS = LossSettings(learnable_temperature=True, symmetric=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedder() -> Vlm2VecEmbedder:
    """In training mode, with dropout behind every feed-forward layer of both towers."""
    made = random_embedder()
    for layer in (*made.model.language_model.layers, *made.model.visual.blocks):
        layer.mlp = nn.Sequential(layer.mlp, nn.Dropout(0.3))
    made.model.train()
    return made


@pytest.fixture(params=["plain", "checkpointing"])
def encoder(embedder, request) -> Iterator[Vlm2VecEmbedder]:
    if request.param == "checkpointing":
        embedder.model.activation_checkpointing_enable()
    yield embedder
    embedder.model.activation_checkpointing_disable()


def chunks_of(embedder: Vlm2VecEmbedder, rows: Sequence[Sequence[int]]) -> list[tuple[Sequence[int], Batch]]:
    def prepare(chunk: Sequence[int]) -> Batch:
        pictures = [PICTURES.get(row) for row in chunk]
        return embedder.prepare([PROMPTS[row] for row in chunk], pictures, [row == 5 for row in chunk])

    return [(chunk, prepare(chunk)) for chunk in rows]


CHUNKS = {
    "1": [[row] for row in range(ROWS)],
    "3": [[2, 5, 0], [1, 3, 4], [6]],  # modalities and sides mixed, text alone at the end
    "all": [list(range(ROWS))],
}


class Step:
    """One step's loss, parts and gradients by name, from the same start of the generators."""

    def __init__(self, embedder: Vlm2VecEmbedder, run) -> None:
        self.criterion = ContrastiveLoss(SETTINGS)
        embedder.model.zero_grad()
        torch.manual_seed(3)
        self.loss, self.parts = run(self.loss_of)
        self.after = torch.get_rng_state()
        named = [*embedder.model.named_parameters(), *self.criterion.named_parameters()]
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def loss_of(self, embeddings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        counts = torch.tensor([1, 1, 2])
        return self.criterion(ContrastiveBatch(embeddings[:3], embeddings[3:], target_counts=counts))


def plain(encode, chunks):
    """Plain autograd: all graphs at once."""

    def run(loss_of):
        embeddings = torch.cat([encode(inputs) for _, inputs in chunks])
        order = torch.tensor([row for rows, _ in chunks for row in rows])
        loss, parts = loss_of(embeddings[order.argsort()])
        loss.backward()
        return loss.detach(), parts

    return run


def cached(encode, chunks, **options):
    return lambda loss_of: cached_backward(encode, chunks, loss_of, **options)


def assert_same(found: Step, expected: Step, *, rel: float) -> None:
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        difference = (found.gradients[name] - gradient).norm().item()
        assert difference <= rel * gradient.norm().item() + 1e-7, name


@pytest.mark.parametrize("rows", CHUNKS.values(), ids=CHUNKS)
def test_equals_plain_autograd_with_dropout(encoder, rows):
    chunks = chunks_of(encoder, rows)
    expected = Step(encoder, plain(encoder.forward, chunks))
    found = Step(encoder, cached(encoder.forward, chunks))
    assert_same(found, expected, rel=1e-5)
    assert found.parts["replay_error"].item() == 0
    assert found.gradients["temperatures.log_temperature"].abs().item() > 0.1
    assert torch.equal(found.after, expected.after)  # the next step draws the same numbers as well
    other_masks = Step(encoder, plain(encoder.forward, chunks_of(encoder, CHUNKS["1"][::-1])))
    assert other_masks.loss.item() != pytest.approx(expected.loss.item(), rel=1e-4)  # dropout matters


def test_chunks_add_up_to_the_whole_batch_without_dropout(embedder):
    embedder.model.eval()
    expected = Step(embedder, plain(embedder.forward, chunks_of(embedder, CHUNKS["all"])))
    for rows in CHUNKS.values():
        assert_same(Step(embedder, cached(embedder.forward, chunks_of(embedder, rows))), expected, rel=1e-4)
    embedder.model.train()


@pytest.mark.parametrize("place", ["inside the encoder", "around everything"])
def test_under_autocast(encoder, place):
    """Around everything, the loss and the backward passes would be rounded too, and weights cast without gradient kept."""
    chunks = chunks_of(encoder, CHUNKS["3"])

    def encode(batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encoder.forward(batch)

    expected = Step(encoder, plain(encode, chunks))
    if place == "inside the encoder":
        found = Step(encoder, cached(encode, chunks))
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = Step(encoder, cached(encoder.forward, chunks))
    assert_same(found, expected, rel=1e-4)
    exact = Step(encoder, plain(encoder.forward, chunks))
    assert found.loss.item() != exact.loss.item()  # bfloat16 was on


def test_one_process_keeps_the_activations_of_one_chunk_at_most(embedder):
    """The reference runs the whole batch at once on one process, whatever --grad_cache says."""
    calls: list[tuple[int, bool]] = []
    syncs: list[int] = []

    def encode(batch: Batch) -> Tensor:
        calls.append((len(batch), torch.is_grad_enabled()))
        return embedder.forward(batch)

    class NoSync:
        def __enter__(self) -> None:
            syncs.append(len(calls))

        def __exit__(self, *_: object) -> None:
            pass

    Step(embedder, cached(encode, chunks_of(embedder, CHUNKS["3"]), no_sync=NoSync))
    assert calls == [(3, False), (3, False), (1, False), (3, True), (3, True), (1, True)]
    assert syncs == [3, 4]  # around the first two chunks of the second pass: gradients are reduced once, with the last


def test_a_single_chunk_is_embedded_once(embedder):
    calls: list[bool] = []

    def encode(batch: Batch) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return embedder.forward(batch)

    Step(embedder, cached(encode, chunks_of(embedder, CHUNKS["all"])))
    assert calls == [True]


def test_sub_batches_with_fixed_teacher_vectors_share_the_step(embedder):
    """Rows 0-2 and 3-5 are pairs, row 6 is to meet a teacher's vector."""
    vectors = F.normalize(torch.randn(9, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    teacher, bank = vectors[:1], vectors[1:]

    def loss_of(embeddings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        pairs, _ = ContrastiveLoss(LossSettings())(ContrastiveBatch(embeddings[:3], embeddings[3:6]))
        distilled = bank_distillation(embeddings[6:], teacher, bank)
        return pairs + 2 * distilled, {"distilled": distilled.detach()}

    chunks = chunks_of(embedder, CHUNKS["3"])
    found = Step(embedder, lambda _: cached_backward(embedder.forward, chunks, loss_of))
    expected = Step(embedder, lambda _: plain(embedder.forward, chunks)(loss_of))
    assert_same(found, expected, rel=1e-5)
    assert found.parts["distilled"].item() == pytest.approx(expected.parts["distilled"].item())


def test_gradients_are_added_to_what_is_there():
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.full((2, 2), 5.0)
    chunks = [([1], torch.tensor([[1.0, 2.0]])), ([0], torch.tensor([[3.0, 4.0]]))]
    loss, _ = cached_backward(lambda x: x @ weight, chunks, lambda e: (e[0].sum() + 10 * e[1].sum(), {}))
    assert loss.item() == 2 * 7 + 10 * 2 * 3
    assert weight.grad.tolist() == [[5 + 3 + 10, 18], [5 + 4 + 20, 29]]
    assert not loss.requires_grad


def test_an_encoder_that_cannot_be_replayed_shows():
    numbers = iter([1.0, 2.0, 1.5, 2.0])
    weight = nn.Parameter(torch.ones(1))

    def encode(x: Tensor) -> Tensor:
        return x * weight * next(numbers)

    chunks = [([0], torch.ones(1, 1)), ([1], torch.ones(1, 1))]
    assert cached_backward(encode, chunks, lambda e: (e.sum(), {}))[1]["replay_error"].item() == 0.5


@pytest.mark.parametrize("rows", [[], [[0], [0]], [[0], [2]], [[0], []]], ids=["none", "twice", "missing", "empty"])
def test_rows_that_are_no_batch(rows):
    with pytest.raises(ValueError, match=r"0 … n-1"):
        cached_backward(lambda x: x, [(chunk, torch.zeros(len(chunk), 1)) for chunk in rows], lambda e: (e.sum(), {}))


def test_an_encoder_that_loses_rows():
    with pytest.raises(ValueError, match="1 embeddings for a chunk of 2 rows"):
        cached_backward(lambda x: x[:1], [([0, 1], torch.zeros(2, 1))], lambda e: (e.sum(), {}))


class TestChunks:
    @pytest.mark.parametrize(
        ("costs", "budget", "expected"),
        [
            ([3, 3, 3, 3], 6, [[0, 1], [2, 3]]),
            ([2, 9, 2, 1], 4, [[1], [0, 2], [3]]),
            ([9, 9], 4, [[0], [1]]),
            ([1], 1, [[0]]),
            ([], 5, []),
        ],
        ids=["even", "one above the budget goes alone", "all above", "exact", "nothing"],
    )  # fmt: skip
    def test_within_budget(self, costs, budget, expected):
        assert chunks_by_cost(costs, budget, at_least=0) == expected

    def test_any_costs(self):
        costs = torch.randint(1, 400, (500,), generator=torch.Generator().manual_seed(0)).tolist()
        for budget in (1, 100, 399, 5000, 10**6):
            chunks = chunks_by_cost(costs, budget)
            assert sorted(row for chunk in chunks for row in chunk) == list(range(500))
            assert all(len(c) == 1 or (c and sum(costs[row] for row in c) <= budget) for c in chunks)

    def test_rows_per_chunk_and_equal_numbers_of_chunks(self):
        assert [len(chunk) for chunk in chunks_by_cost([1] * 7, 100, max_rows=3)] == [3, 3, 1]
        assert [len(chunk) for chunk in chunks_by_cost([1] * 7, 100, at_least=4)] == [1, 2, 2, 2]

    def test_what_cannot_be_shared_out(self):
        with pytest.raises(ValueError, match="draw more rows"):
            chunks_by_cost([1, 1], 5, at_least=3)
        with pytest.raises(ValueError, match="budget 0"):
            chunks_by_cost([1], 0)
