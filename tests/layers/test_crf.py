"""A conditional random field equals the sum over all paths, one after another, in company as alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from seqlab.layers.backend import backend
from seqlab.layers.crf import CRFHead
from seqlab.ragged import IGNORED

WIDTH = 3
LENGTHS = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5]), max_size=4)
# Tags B, I, O: I must not come first nor after O. And, which no scheme of spans asks for, B must not come last.
ALLOWED = (
    torch.tensor([[True, True, True], [True, True, True], [True, False, True]]),
    torch.tensor([True, False, True]),
    torch.tensor([False, True, True]),
)


def make(classes: int = 3, dtype: torch.dtype = torch.float64, std: float = 1.0, bound: bool = False) -> CRFHead:
    torch.manual_seed(classes)
    head = CRFHead(WIDTH, classes, ALLOWED if bound else None).to(dtype)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=std)
    return head


def rows_and_targets(lengths: list[int], classes: int, ignored: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    hidden_TD = torch.randn(sum(lengths), WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    targets_T = torch.randint(classes, (sum(lengths),), generator=generator)
    unknown_T = torch.rand(sum(lengths), generator=generator) < ignored
    return hidden_TD, targets_T.masked_fill(unknown_T, IGNORED), torch.tensor(lengths, dtype=torch.int64)


def by_enumeration(head: CRFHead, hidden_TD: Tensor, targets_T: Tensor, lengths: list[int]) -> Tensor:
    """-log of the share that paths which agree with the known tags have in the sum over all."""
    total = hidden_TD.sum() * 0 + sum(parameter.sum() * 0 for parameter in head.parameters())
    sequences = zip(hidden_TD.split(lengths), targets_T.split(lengths), strict=True) if lengths else []
    for hidden_LD, targets_L in sequences:
        paths = reference.crf_paths(head, hidden_LD, allowed=False)
        known = {t: tag for t, tag in enumerate(targets_L.tolist()) if tag != IGNORED}
        agree = [score for path, score in paths.items() if all(path[t] == tag for t, tag in known.items())]
        total = total + torch.stack(list(paths.values())).logsumexp(0) - torch.stack(agree).logsumexp(0)
    return total


def gradients(head: CRFHead, loss: Tensor, hidden_TD: Tensor) -> list[Tensor]:
    inputs = [hidden_TD, *head.parameters()]
    return list(torch.autograd.grad(loss * 0.7, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
@settings(max_examples=8)
@given(lengths=LENGTHS, classes=st.integers(1, 4))
@example(lengths=[], classes=3)
@example(lengths=[0, 0], classes=3)
@example(lengths=[1, 5, 5, 3, 0], classes=4)
def test_loss_and_gradients_are_those_of_all_paths(path: str, ignored: float, lengths: list[int], classes: int) -> None:
    head = make(classes)
    hidden_TD, targets_T, lengths_B = rows_and_targets(lengths, classes, ignored)
    expected = by_enumeration(head, hidden_TD, targets_T, lengths)
    with backend(path):  # type: ignore[arg-type]
        loss = head.loss(hidden_TD, targets_T, lengths_B)
    assert loss.dtype == torch.float64
    assert abs((loss - expected).item()) < 1e-11
    for ours, theirs in zip(gradients(head, loss, hidden_TD), gradients(head, expected, hidden_TD), strict=True):
        assert ours.shape == theirs.shape
        assert ours.numel() == 0 or (ours - theirs).abs().max() < 1e-11


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_log_z_is_that_of_each_sequence(path: str) -> None:
    head, lengths = make(4), [1, 3, 4, 0, 3]
    hidden_TD, _, lengths_B = rows_and_targets(lengths, 4, 0.0)
    sequences = [reference.crf_paths(head, part, allowed=False) for part in hidden_TD.split(lengths)]
    expected = torch.stack([torch.stack(list(paths.values())).logsumexp(0) for paths in sequences])
    with backend(path):  # type: ignore[arg-type]
        assert torch.allclose(head.log_partition(head.scores(hidden_TD), lengths_B), expected, atol=1e-12)


@pytest.mark.parametrize("bound", [False, True])
@settings(max_examples=15)
@given(lengths=LENGTHS)
@example(lengths=[])
@example(lengths=[0, 0])
@example(lengths=[1, 5, 5, 3, 0])
def test_tags_and_their_probabilities_are_those_of_all_allowed_paths(bound: bool, lengths: list[int]) -> None:
    head = make(bound=bound)
    hidden_TD, _, lengths_B = rows_and_targets(lengths, 3, 0.0)
    tags: list[int] = []
    probabilities: list[Tensor] = []
    for hidden_LD in hidden_TD.split(lengths) if lengths else []:
        paths = reference.crf_paths(head, hidden_LD, allowed=True)
        tags += max(paths, key=lambda path: paths[path].item())
        shares = torch.stack(list(paths.values())).softmax(0)
        for t in range(len(hidden_LD)):
            tag_of = torch.tensor([path[t] for path in paths])
            probabilities.append(torch.stack([shares[tag_of == tag].sum() for tag in range(3)]))
        if length := len(hidden_LD):  # a sentence's tags together, as a chain
            path_L = torch.tensor(tags[-length:])
            p_L, given_L = head.likelihoods(hidden_LD, torch.tensor([length]), path_L)
            torch.testing.assert_close(p_L[0] * given_L[1:].prod(), shares.max())
    assert head.decode(hidden_TD, lengths_B).tolist() == tags
    expected = torch.stack(probabilities) if probabilities else torch.zeros(0, 3, dtype=torch.float64)
    if sum(lengths):
        chosen_T = torch.tensor(tags)
        p_T, _ = head.likelihoods(hidden_TD, lengths_B, chosen_T)
        torch.testing.assert_close(p_T, expected.gather(1, chosen_T.unsqueeze(1)).squeeze(1))
    found = head.probabilities(hidden_TD, lengths_B)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_constraints_bind_where_they_are_broken_otherwise() -> None:
    hidden_TD, targets_T, lengths = rows_and_targets([5] * 40, 3, 0.0)
    free, bound = (make(bound=bound).decode(hidden_TD, lengths).view(40, 5) for bound in (False, True))

    def broken(tags_NL: Tensor) -> Tensor:
        pairs, start, end = ALLOWED
        within = pairs[tags_NL[:, :-1], tags_NL[:, 1:]].all(1)
        return ~(within & start[tags_NL[:, 0]] & end[tags_NL[:, -1]])

    assert int(broken(free).sum()) > 5
    assert not broken(bound).any()
    assert torch.equal(make(bound=True).loss(hidden_TD, targets_T, lengths), make().loss(hidden_TD, targets_T, lengths))
    with pytest.raises(ValueError, match=r"allowed transitions must be \[4, 4\], got \[3, 3\]"):
        CRFHead(WIDTH, 4, ALLOWED)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("lengths", [[7, 2, 60, 2, 0, 1], [1], [1, 1, 1]])
def test_company_changes_nothing(path: str, lengths: list[int]) -> None:
    head = make(4)
    hidden_TD, targets_T, lengths_B = rows_and_targets(lengths, 4, 0.2)
    with backend(path):  # type: ignore[arg-type]
        together = head.loss(hidden_TD, targets_T, lengths_B)
        parts = list(zip(hidden_TD.split(lengths), targets_T.split(lengths), lengths_B.split(1), strict=True))
        alone = torch.stack([head.loss(*part) for part in parts]).sum()
    assert abs((together - alone).item()) < 1e-11
    for ours, theirs in zip(gradients(head, together, hidden_TD), gradients(head, alone, hidden_TD), strict=True):
        assert (ours - theirs).abs().max() < 1e-11
    assert torch.equal(
        head.decode(hidden_TD, lengths_B), torch.cat([head.decode(rows, length) for rows, _, length in parts])
    )
    found = torch.cat([head.probabilities(rows, length) for rows, _, length in parts])
    assert torch.allclose(head.probabilities(hidden_TD, lengths_B), found, atol=1e-12)
    scores_TC = head.scores(hidden_TD)
    (of_log_z,) = torch.autograd.grad(head.log_partition(scores_TC, lengths_B).sum(), scores_TC)
    assert torch.allclose(of_log_z, found, atol=1e-12)


@pytest.mark.parametrize("std", [1.0, 40.0])
def test_float32_stays_within_rounding_also_where_scores_are_large(std: float) -> None:
    head = make(4, torch.float32, std)
    lengths = [30, 1, 9, 0]
    hidden_TD, targets_T, lengths_B = rows_and_targets(lengths, 4, 0.3)
    hidden_TD = hidden_TD.detach().float().requires_grad_()
    exact_head = make(4, torch.float32, std).double()
    exact_TD = hidden_TD.detach().double().requires_grad_()
    with backend("plain"):
        exact = exact_head.loss(exact_TD, targets_T, lengths_B)
        plain = head.loss(hidden_TD, targets_T, lengths_B)
    expected = gradients(exact_head, exact, exact_TD)
    loss = head.loss(hidden_TD, targets_T, lengths_B)
    assert loss.dtype == plain.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert plain.item() == pytest.approx(exact.item(), rel=1e-4)  # a difference of sums that are larger
    for ours, theirs in zip(gradients(head, loss, hidden_TD), expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_gradients_under_autocast_are_near_and_of_the_parameters_type() -> None:
    head = make(4, torch.float32)
    hidden_TD, targets_T, lengths_B = rows_and_targets([9, 4, 1], 4, 0.3)
    hidden_TD = hidden_TD.detach().float().requires_grad_()
    exact = head.loss(hidden_TD, targets_T, lengths_B)
    expected = gradients(head, exact, hidden_TD)
    for path in ("fast", "plain"):
        with backend(path), torch.autocast("cpu", torch.bfloat16):  # type: ignore[arg-type]
            loss = head.loss(hidden_TD, targets_T, lengths_B)
        assert loss.dtype == torch.float32
        assert 0 < abs((loss - exact).item()) < 0.05 * exact.item()
        for ours, theirs in zip(gradients(head, loss, hidden_TD), expected, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()


def test_the_plain_path_differentiates_twice() -> None:
    head = make(3)
    hidden_TD, targets_T, lengths_B = rows_and_targets([3, 2], 3, 0.3)

    def loss(hidden_TD: Tensor, *_: Tensor) -> Tensor:
        with backend("plain"):
            return head.loss(hidden_TD, targets_T, lengths_B)

    assert torch.autograd.gradgradcheck(loss, (hidden_TD, head.transitions, head.start), fast_mode=True, atol=1e-4)
