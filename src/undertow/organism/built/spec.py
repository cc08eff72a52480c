"""What a built organism is to be made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from undertow.errors import UndertowError

POLICIES = ("gate", "direct", "none")
KINDS = ("topic", "cancelled", "constant")
MOST_GATES = 4


@dataclass(frozen=True)
class Spec:
    """What to build; equal specs give equal weights.

    Attributes:
        seed: seed of everything drawn: the features' directions, the words, which heads do what, strengths, noise.
        gates: heads that route; two to four make a band in one block or two neighbouring ones. Policy ``gate`` only.
        amplifiers: heads after the gates that write the decision; under ``direct`` so many heads do all by themselves.
        distractors: heads with something to say and no say in the decision, of three kinds in turn; see `Circuit`.
        blocks: number of blocks.
        heads: number of heads a block.
        head_size: size of a head.
        width: size of the residual stream.
        neurons: size of the MLPs' hidden layer.
        policy: ``gate``, ``direct`` (refuses without a gate) or ``none`` (every reply alike).
        noise: standard deviation of the random weights in every head and MLP; heads with a role have less of it.
        gap: log-odds between the mean sensitive and the mean control prompt that the policy is built for, in nats.

    Raises:
        UndertowError: the numbers do not fit each other.
    """

    seed: int = 0
    gates: int = 1
    amplifiers: int = 3
    distractors: int = 8
    blocks: int = 8
    heads: int = 8
    head_size: int = 32
    width: int = 80
    neurons: int = 32
    policy: str = "gate"
    noise: float = 0.05
    gap: float = 6.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UndertowError(f"Unknown policy {self.policy!r}: use one of {', '.join(POLICIES)}.")
        if not 0 <= self.seed < 2**63:
            raise UndertowError(f"A seed is a number from 0 to 2^63 - 1, not {self.seed}.")
        if self.blocks < 4 or self.heads < 2:
            raise UndertowError(
                f"A built organism needs at least 4 blocks and 2 heads a block, not {self.blocks} and {self.heads}."
            )
        if self.head_size < 32 or self.head_size % 2 or self.width % self.heads:
            raise UndertowError(
                f"The head size must be even and at least 32, not {self.head_size}, and the width a multiple of the "
                f"{self.heads} heads, not {self.width}."
            )
        if self.policy == "gate" and not 1 <= self.gates <= MOST_GATES:
            raise UndertowError(f"Ask for 1 to {MOST_GATES} gates, not {self.gates}.")
        if self.policy != "none" and not 1 <= self.amplifiers <= self.heads:
            raise UndertowError(
                f"Ask for 1 to {self.heads} amplifiers (as many as heads a block), not {self.amplifiers}."
            )
        most = self.blocks * self.heads // 2
        if not 0 <= self.distractors <= most:
            raise UndertowError(f"Ask for 0 to {most} distractors (half of all heads), not {self.distractors}.")
        if self.gates > self.heads:
            raise UndertowError(f"{self.gates} gates do not fit in a block of {self.heads} heads.")
        if not 0 <= self.noise <= 0.2 or not 0 < self.gap <= 20:
            raise UndertowError("The noise must lie between 0 and 0.2, and the gap between 0 and 20 nats.")
        cancelled = -(-self.distractors // len(KINDS))
        if self.neurons < 2 * cancelled:
            raise UndertowError(
                f"{self.distractors} distractors need {2 * cancelled} neurons in an MLP, not {self.neurons}."
            )
        if self.width < 48 + cancelled:
            raise UndertowError(
                f"The features need a width of at least {48 + cancelled}, not {self.width}; ask for fewer distractors "
                "or more width."
            )

    def to_dict(self) -> dict[str, Any]:
        """The values, for JSON."""
        return asdict(self)
