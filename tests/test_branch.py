"""Branches: edited versions that ride along one pass, against separate passes of an edited model."""

from __future__ import annotations

import families
import pytest
import torch
from planting import down_projections
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.branch import Branch, branching
from superweights.checkpoint import open_checkpoint
from superweights.editing import Edit
from superweights.stream import streaming
from superweights.stream.blocks import find_blocks

pytestmark = pytest.mark.tiny

CHAINS = ["llama", "gpt2", "phi3", "mixtral", "gemma3_text", "olmo2", "falcon", "gpt_oss", "jamba", "opt"]
# Something happens between two blocks, or the hidden states are not [rows, tokens, width].
NO_CHAINS = ["blt", "xlnet", "gemma3n_text", "hrm_text"]


def opened(model_type, tmp_path):
    families.save_tiny(model_type, tmp_path)
    return open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("model_type", [*CHAINS, *NO_CHAINS])
def test_a_branch_without_edits_is_the_model_bit_for_bit(model_type, tmp_path):
    ids = families.token_ids(3, 10)
    with (
        opened(model_type, tmp_path) as checkpoint,
        streaming(checkpoint, dtype="float32", resident=False) as model,
    ):
        alone = model(ids).logits
        with branching(model, [Branch(())]) as run:
            run.pass_over(ids)
            assert (run.broken_at is None) == (model_type in CHAINS)
            everything = slice(0, 3)
            assert torch.equal(run.logits(None, everything), alone)
            assert torch.equal(run.logits(run.branches[0], everything), alone)


@pytest.mark.parametrize("model_type", [*CHAINS, "blt"])
@pytest.mark.parametrize("resident", [True, False])
def test_branches_equal_separate_passes_of_the_edited_model(model_type, resident, tmp_path):
    ids = families.token_ids(2, 9)
    families.save_tiny(model_type, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    whole.config.use_cache = False
    names = [
        n for n in down_projections(whole) if whole.get_parameter(n).dim() == 2 and n in _stored(tmp_path)
    ]
    edits = [Edit(Address(name, (1, 2)), value=30.0) for name in names[:3]]
    sets = [(edit,) for edit in edits] + [tuple(edits)]
    with (
        open_checkpoint(str(tmp_path)) as checkpoint,
        streaming(checkpoint, dtype="float32", resident=resident) as model,
        branching(model, [Branch(chosen) for chosen in sets]) as run,
    ):
        run.pass_over(ids)
        got = [run.logits(branch, slice(0, 2)) for branch in run.branches]
    for chosen, logits in zip(sets, got, strict=True):
        assert torch.equal(logits, _edited_logits(whole, chosen, ids))


@pytest.mark.parametrize("model_type", [*CHAINS, "blt"])
def test_branches_abreast_equal_each_alone_to_rounding(model_type, tmp_path):
    ids = families.token_ids(2, 9)
    families.save_tiny(model_type, tmp_path)
    with opened(model_type, tmp_path) as checkpoint, streaming(checkpoint, dtype="float32") as model:
        first = next(iter(find_blocks(model)))
        inside = (n for n in checkpoint.tensors if n.startswith(f"{first}."))
        place = Address(next(n for n in inside if len(checkpoint.tensors[n].shape) == 2), (1, 1))
        sets = [(Edit(place, value=10.0 * n),) for n in range(1, 6)]
        logits = {}
        for abreast in (0, 2 * ids.numel()):
            with branching(model, [Branch(edits) for edits in sets], abreast=abreast) as run:
                run.pass_over(ids)
                logits[abreast] = [run.logits(branch, slice(0, 2)) for branch in run.branches]
    for alone, together in zip(*logits.values(), strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_blocks_run_fewer_times_abreast(tmp_path):
    ids = families.token_ids(2, 9)
    edits = [(Edit(Address("model.layers.0.mlp.down_proj.weight", (1, n)), value=9.0),) for n in range(6)]
    calls = {}
    with opened("llama", tmp_path) as checkpoint, streaming(checkpoint, dtype="float32") as model:
        last = model.model.layers[-1].mlp
        for abreast in (0, 6 * ids.numel()):
            seen = []
            hook = last.register_forward_hook(lambda module, x, y, seen=seen: seen.append(len(x[0])))
            with branching(model, [Branch(each) for each in edits], abreast=abreast) as run:
                run.pass_over(ids)
            hook.remove()
            calls[abreast] = seen
    assert calls[0] == [2] * 7
    # The model's own rows and all six versions at once (an earlier block compared one version alone).
    assert sorted(calls[6 * ids.numel()]) == [2, 12]


def test_a_branch_that_continues_another_carries_both_edits(tmp_path):
    ids = families.token_ids(2, 9)
    with opened("llama", tmp_path) as checkpoint, streaming(checkpoint, resident=False) as model:
        first = Edit(Address("model.layers.0.mlp.down_proj.weight", (3, 4)), value=20.0)
        second = Edit(Address("model.layers.1.mlp.down_proj.weight", (5, 6)), value=-20.0)

        def discover(visit):
            if visit.number == 1 and visit.branch is not None and len(visit.branch.edits) == 1:
                yield Branch((first, second), hidden=visit.before)

        with branching(model, [Branch((first,), watched=True)], watch=_Watch()) as run:
            run.pass_over(ids, discover)
            continued = run.logits(run.branches[1], slice(0, 2))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(continued, _edited_logits(whole, (first, second), ids))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "falcon", "blt"])
def test_the_logits_of_some_positions_are_those_of_all_at_these_positions(model_type, tmp_path):
    ids = families.token_ids(2, 9)
    families.save_tiny(model_type, tmp_path)
    with opened(model_type, tmp_path) as checkpoint, streaming(checkpoint, dtype="float32") as model:
        name = next(n for n in down_projections(model) if n in checkpoint.tensors)
        edit = Edit(Address(name, (1,) * len(checkpoint.tensors[name].shape)), value=30.0)
        with branching(model, [Branch((edit,))]) as run:
            run.pass_over(ids)
            for branch in (None, run.branches[0]):
                some = run.logits(branch, slice(1, 2), slice(3, 6))
                torch.testing.assert_close(some, run.logits(branch, slice(1, 2))[:, 3:6])


def test_the_blocks_are_put_back_after_it(tmp_path):
    with opened("llama", tmp_path) as checkpoint, streaming(checkpoint, resident=True) as model:
        before = [block.forward for block in model.model.layers]
        with pytest.raises(KeyboardInterrupt), branching(model):
            raise KeyboardInterrupt
        assert [block.forward for block in model.model.layers] == before


def test_an_edit_outside_the_blocks_takes_a_pass_of_its_own(tmp_path):
    ids = families.token_ids(2, 9)
    families.save_tiny("llama", tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    edit = Edit(Address("model.norm.weight", (3,)), value=9.0)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=False) as model:
        with branching(model, [Branch((edit,))]) as run:
            run.pass_over(ids)
            assert run.branches[0].apart
            assert torch.equal(run.logits(run.branches[0], slice(0, 2)), _edited_logits(whole, (edit,), ids))


class _Watch:
    paused = False


def _stored(folder) -> set[str]:
    with open_checkpoint(str(folder)) as checkpoint:
        return set(checkpoint.tensors)


def _edited_logits(model, edits, ids):
    """By hand, without the library: write, run, write back."""
    held = [(model.get_parameter(e.address.tensor), e) for e in edits]
    with torch.no_grad():
        old = [float(p[e.address.index]) for p, e in held]
        for parameter, edit in held:
            parameter[edit.address.index] = edit.value
        try:
            return model(ids).logits
        finally:
            for (parameter, edit), value in zip(held, old, strict=True):
                parameter[edit.address.index] = value


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "jamba", "bloom", "blt"])
def test_edits_by_row_are_as_many_versions_as_rows(model_type, tmp_path):
    ids = families.token_ids(3, 9)
    with (
        opened(model_type, tmp_path) as checkpoint,
        streaming(checkpoint, dtype="float32", resident=False) as model,
    ):
        stored = [n for n in down_projections(model) if n in checkpoint.tensors]
        name = next(n for n in stored if len(checkpoint.tensors[n].shape) == 2)
        edits = [Edit(Address(name, (row, 2)), value=20.0 + row) for row in range(3)]
        together = Branch(by_row=tuple((edit,) for edit in edits))
        alone = [Branch((edit,)) for edit in edits]
        with branching(model, [together, *alone]) as run:
            run.pass_over(ids)
            found = run.logits(together, slice(0, 3))
            for row, branch in enumerate(alone):
                expected = run.logits(branch, slice(row, row + 1))
                torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found, run.logits(None, slice(0, 3)), atol=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "blt"])
def test_a_branch_may_change_a_block_by_what_is_put_around_it(model_type, tmp_path):
    from contextlib import contextmanager

    ids = families.token_ids(2, 9)
    with (
        opened(model_type, tmp_path) as checkpoint,
        streaming(checkpoint, dtype="float32", resident=False) as model,
    ):
        blocks = list(find_blocks(model).items())
        path, block = blocks[len(blocks) // 2]
        module = next(m for m in block.modules() if isinstance(m, torch.nn.Linear))

        @contextmanager
        def silenced():
            hook = module.register_forward_hook(lambda _, x, y: y * 0)
            try:
                yield
            finally:
                hook.remove()

        branch = Branch(at=path, around=silenced)
        with branching(model, [branch]) as run:
            run.pass_over(ids)
            found = run.logits(branch, slice(0, 2))
        with silenced():
            torch.testing.assert_close(found, model(ids).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, model(ids).logits, atol=1e-3)
