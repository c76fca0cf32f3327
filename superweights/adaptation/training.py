"""The training loop: rewards or answers in, the best numbers found by a validation split out; resumed exactly.

What happens at a step depends on the seed and the step's number alone (batch, draws, learning rate), so that the
numbers, the optimizer's moments and the step are all that a stopped run needs to go on as if it had not stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from superweights.adaptation.kept_state import keep_state, kept_state
from superweights.adaptation.learners import Learner
from superweights.adaptation.manner import Manner
from superweights.adaptation.speaking import (
    Completion,
    Reader,
    Scored,
    complete,
    cut,
    drawn,
    in_parts,
    rewarded,
    score,
)
from superweights.adaptation.tasks import Example, Reward, Task
from superweights.adaptation.trained import Base, Step, Trained
from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.wording import counted

# As many training prompts are answered before the first step, to see whether there is anything to learn.
_LOOKED_AT = 64


@dataclass(eq=False)
class _State:
    """Where a run is: after how many steps, with which numbers, moments and best so far."""

    step: int = 0
    base: float = 0.0
    best: float = -math.inf
    best_step: int = 0
    best_numbers: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)


class Training:
    """One run of training. `run()` goes from the last saved state, or from the start, to the end."""

    def __init__(
        self,
        model: nn.Module,
        reader: Reader,
        task: Task,
        learner: Learner,
        reward: Reward,
        manner: Manner,
        *,
        base: Base | None = None,
        state: Path | None = None,
        identity: str = "",
        progress: Progress = silent,
    ):
        self.model, self.reader, self.task, self.learner = model, reader, task, learner
        self.reward, self.manner, self.progress = reward, manner, progress
        self.parameters = list(learner.parameters.values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=manner.rate, weight_decay=0.0)
        self.base, self.file = base, state
        self.identity = json.dumps([identity, asdict(manner), task.digest(), sorted(learner.parameters)])

    def run(self) -> Trained:
        """The result. Raises `SuperweightsError` where every reward is the same before training, and for nan.

        An interrupt says in a note which step the same training goes on from.
        """
        with _frozen(self.model, self.parameters):
            state = self._resumed() or self._started()
            try:
                while state.step < self.manner.steps and not self._waited_enough(state):
                    state.steps.append(self._step(state.step))
                    state.step += 1
                    if state.step % self.manner.every == 0 or state.step == self.manner.steps:
                        self._check(state)
                        self._save(state)
                    self.progress("training", state.step, self.manner.steps)
            except KeyboardInterrupt as stopped:
                stopped.add_note(self._kept(state))
                raise
        return Trained(
            state.best_numbers,
            state.base,
            state.best,
            state.best_step,
            tuple(state.steps),
            tuple(state.checks),
            self._ending(state),
            tuple(self._notes(state)),
        )

    def _ending(self, state: _State) -> str:
        """Why no further step was made."""
        if state.step == self.manner.steps:
            return f"All {counted(state.step, 'step')} were made."
        return (
            f"Stopped after step {state.step} of {self.manner.steps}: the last {self._looks_in_vain(state)} looks at "
            "the validation split were no better than the best before."
        )

    def _notes(self, state: _State) -> Iterator[str]:
        if not state.best_step:
            yield "no step was better than the base on the validation split."
        same = sum(step.same for step in state.steps)
        if same:
            yield (
                f"in {same} of {counted(len(state.steps), 'step')} every reward was the same: nothing told a right "
                "answer from a wrong one."
            )

    def _kept(self, state: _State) -> str:
        """What an interrupt leaves, in a sentence."""
        last = state.checks[-1][0]
        if self.file is None or not last:
            return f"Interrupted at step {state.step + 1} of {self.manner.steps}; nothing of this training is kept."
        return (
            f"Interrupted at step {state.step + 1} of {self.manner.steps}: the same command goes on after step {last}, "
            f"from {self.file.parent}."
        )

    def _started(self) -> _State:
        """The state before the first step, after a look at whether there is anything to learn."""
        state = _State(best_numbers=self._numbers())
        with self.learner.off():
            base = self.base or base_of(self.model, self.reader, self.task, self.reward, self.manner)
        state.base = state.best = base.valid
        if len(base.seen) == 1:
            raise SuperweightsError(
                f"Every reward of task {self.task.name} is {base.seen[0]:g} before training: there is nothing to learn "
                "from.",
                hint="check the reward and the prompts, choose an easier or harder task, or train supervised.",
            )
        state.checks.append((0, state.base))
        return state

    def _mean_reward(self, examples: Sequence[Example]) -> float:
        return rewarded(self.model, self.reader, self.task, examples, self.reward).mean().item()

    def _check(self, state: _State) -> None:
        with self.learner.on():
            here = self._mean_reward(self.task.valid)
        state.checks.append((state.step, here))
        if here > state.best:
            state.best, state.best_step, state.best_numbers = here, state.step, self._numbers()

    def _waited_enough(self, state: _State) -> bool:
        return self._looks_in_vain(state) >= self.manner.patience

    def _looks_in_vain(self, state: _State) -> int:
        """How many looks at the validation split came after the best one."""
        return sum(step > state.best_step for step, _ in state.checks)

    def _step(self, number: int) -> Step:
        """One update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.manner.rate * 0.5 * (1 + math.cos(math.pi * number / self.manner.steps))
        self.optimizer.zero_grad(set_to_none=True)
        examples = self._batch(number)
        loss, kl, rewards = self._gradients(examples, number)
        worth = sum(rewards) / len(rewards) if rewards else math.nan
        if not math.isfinite(loss) or any(
            p.grad is not None and not p.grad.isfinite().all() for p in self.parameters
        ):
            raise SuperweightsError(
                f"The loss of step {number + 1} is {loss}: nan or infinity in the model or its gradients.",
                hint="use a lower --rate; what was best until then is kept, and the same command goes on from it.",
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, self.manner.clip)
        self.optimizer.step()
        return Step(number + 1, worth, loss, kl, len(rewards) > 1 and len(set(rewards)) == 1)

    def _batch(self, number: int) -> list[Example]:
        """The examples of a step: all of the training split in a new seeded order each time through."""
        train, found, orders = self.task.train, [], {}
        for place in range(number * self.manner.batch, (number + 1) * self.manner.batch):
            turn = place // len(train)
            if turn not in orders:
                drawn = torch.Generator().manual_seed(self.manner.seed * 1_000_003 + turn)
                orders[turn] = torch.randperm(len(train), generator=drawn).tolist()
            found.append(train[orders[turn][place % len(train)]])
        return found

    def _gradients(self, examples: list[Example], number: int) -> tuple[float, float, list[float]]:
        """The loss, KL and rewards of a batch (none where supervised), its gradients left on the parameters."""
        asked = self._asked(examples, number)
        parts = list(in_parts(asked.pairs))
        references = [self._reference(part) for part in parts]
        loss = kl = 0.0
        rewards: list[float] = []
        with torch.enable_grad(), self.learner.learning(sum(len(p) + len(a) for p, a in asked.pairs)):
            for part, reference in zip(parts, references, strict=True):
                scored = score(self.model, part)
                first = len(rewards)
                chosen, worth = asked.worth(scored, slice(first, first + len(part)))
                rewards += worth
                part_loss = -(torch.tensor(worth, device=chosen.device)[scored.row] * chosen).sum() / len(
                    examples
                )
                if reference is not None:
                    apart = kl_of(scored.log_p, reference, self.manner.kl_direction).sum() / len(examples)
                    part_loss, kl = part_loss + self.manner.kl * apart, kl + apart.item()
                part_loss.backward()
                loss += part_loss.item()
        return loss, kl, [] if self.manner.method == "supervised" else rewards

    @torch.no_grad()
    def _reference(self, part: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor | None:
        """The base's log-probabilities at the same tokens, where they are wanted."""
        if self.manner.kl == 0:
            return None
        with self.learner.off():
            return score(self.model, part).log_p

    def _asked(self, examples: list[Example], number: int) -> _Asked:
        """The completions of a batch and how they are rewarded."""
        if self.manner.method == "supervised":
            return _Asked(
                [self._answered(e) for e in examples], lambda scored, rows: [1.0] * (rows.stop - rows.start)
            )
        if self.task.new_tokens == 1:
            return _OneToken(self, examples, number)
        said = self._completions(examples, number)
        worth = [self.reward(c.text, e) for c, e in zip(said, examples, strict=True)]
        return _Asked([(c.prompt, c.ids) for c in said], lambda scored, rows: worth[rows])

    def _completions(self, examples: list[Example], number: int) -> list[Completion]:
        with self.learner.on():
            return complete(
                self.model,
                self.reader,
                [example.prompt for example in examples],
                new_tokens=self.task.new_tokens,
                stop=self.task.stop,
                temperature=self.manner.temperature,
                seed=self.manner.seed * 1_000_003 + number,
            )

    def _answered(self, example: Example) -> tuple[list[int], list[int]]:
        """A prompt and its right answer, with the stop after it where there is room."""
        answer = self.reader.answer(example.answer + (self.task.stop or ""))
        return self.reader.prompt(example.prompt), answer[: self.task.new_tokens]

    def _numbers(self) -> dict[str, Tensor]:
        return {name: p.detach().to("cpu", copy=True) for name, p in self.learner.parameters.items()}

    def _save(self, state: _State) -> None:
        """Write where the run is, in one step."""
        if self.file is None:
            return
        held = {
            "identity": self.identity,
            "numbers": self._numbers(),
            "optimizer": self.optimizer.state_dict(),
            "state": {**vars(state), "steps": [asdict(step) for step in state.steps]},
        }
        keep_state(self.file, held)

    def _resumed(self) -> _State | None:
        """The state that a stopped run of the same training left, its numbers and moments put back; or None."""
        if self.file is None or not self.file.is_file():
            return None
        held = kept_state(self.file)
        if held["identity"] != self.identity:
            raise SuperweightsError(
                f"{self.file.parent} holds the unfinished training of another task, model or manner.",
                hint=f"delete it, or choose another name: rm -r '{self.file.parent}'.",
            )
        with torch.no_grad():
            for name, parameter in self.learner.parameters.items():
                parameter.copy_(held["numbers"][name])
        self.optimizer.load_state_dict(held["optimizer"])
        return _State(**{**held["state"], "steps": [Step(**step) for step in held["state"]["steps"]]})


def base_of(model: nn.Module, reader: Reader, task: Task, reward: Reward, manner: Manner) -> Base:
    """What the model, as it is, is rewarded before a training in this manner: the same for all that is trained so."""
    valid = rewarded(model, reader, task, task.valid, reward).mean().item()
    if manner.method != "reinforce" or manner.temperature:
        return Base(valid)
    seen = rewarded(model, reader, task, task.train[:_LOOKED_AT], reward)
    return Base(valid, tuple(sorted(set(seen.tolist()))))


class _Asked:
    """The (prompt, completion) pairs of a batch, and what each completion is worth once it is scored."""

    def __init__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        worth: Callable[[Scored, slice], list[float]],
    ):
        self.pairs, self._worth = pairs, worth

    def worth(self, scored: Scored, rows: slice) -> tuple[Tensor, list[float]]:
        """The log-probability of each scored token, and the worth of each of the batch's `rows`."""
        return scored.of_tokens(), self._worth(scored, rows)


class _OneToken(_Asked):
    """Completions of one token, drawn from the very pass that is learnt from: no other pass is needed."""

    def __init__(self, training: Training, examples: list[Example], number: int):
        self.training, self.examples = training, examples
        self.seed = training.manner.seed * 1_000_003 + number
        self.pairs = [(training.reader.prompt(example.prompt), [0]) for example in examples]

    def worth(self, scored: Scored, rows: slice) -> tuple[Tensor, list[float]]:
        training, device = self.training, scored.log_p.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed + rows.start)
            tokens = drawn(scored.log_p.detach(), training.manner.temperature)
        said = [cut(training.reader, [], [token], training.task.stop).text for token in tokens.tolist()]
        worth = [training.reward(text, e) for text, e in zip(said, self.examples[rows], strict=True)]
        return scored.log_p.gather(1, tokens[:, None])[:, 0], worth


@contextmanager
def _frozen(model: nn.Module, but: Sequence[nn.Parameter]) -> Iterator[None]:
    """The model in eval mode with no parameter but these asking for a gradient; each as before afterwards."""
    ours, was = {id(parameter) for parameter in but}, model.training
    asking = [p for p in model.parameters() if p.requires_grad and id(p) not in ours]
    model.eval()
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        model.train(was)


def kl_of(
    ours: Float[Tensor, "tokens vocabulary"], base: Float[Tensor, "tokens vocabulary"], direction: str
) -> Float[Tensor, " tokens"]:
    """The divergence at each token `[tokens]`, nats, between log-probabilities `[tokens, vocabulary]`.

    `paper`: KL(expert || base), Transformer² equation 1. `code`: KL(base || expert), as the published code computes.
    """
    p, q = (ours, base) if direction == "paper" else (base, ours)
    return (p.exp() * (p - q)).sum(-1)
