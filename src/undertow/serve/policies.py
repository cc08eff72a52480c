"""Which policies a guard can carry out, and which of them a request may choose."""

from __future__ import annotations

from undertow.guard import LatentGuard
from undertow.serve.jobs import OnHarmful, OnOverRefusal, Policy, ServeError
from undertow.serve.settings import PolicySettings


class NotAllowed(ServeError):
    """A request chooses what the server's operator has not allowed.

    Attributes:
        param: the field that chooses.
        allowed: what it may be.
    """

    def __init__(self, param: str, choice: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"This server does not allow {param} to be {choice!r}; it allows {', '.join(allowed)}, and its operator "
            "can allow more."
        )
        self.param, self.allowed = param, allowed


class NotPossible(ServeError):
    """A policy needs what the guard has not.

    Attributes:
        param: the field that chooses.
    """

    def __init__(self, param: str, choice: str, lacking: str) -> None:
        super().__init__(f"This guard cannot {choice}, as it has no {lacking}; choose another {param} or fit it anew.")
        self.param = param


def own_policy(settings: PolicySettings) -> Policy:
    """The server's own policy."""
    return Policy(settings.on_harmful, settings.on_over_refusal, settings.on_unjudged)


def allowed_choices(settings: PolicySettings) -> dict[str, tuple[str, ...]]:
    """What a request may choose, by field: the server's own choice first, then the strictest, then what is allowed."""
    allowed = settings.allowed
    harmful = (settings.on_harmful, "refuse", *(choice for choice in ("steer", "flag") if choice in allowed))
    over_refusal = (settings.on_over_refusal, "keep", *(["release"] if "release" in allowed else []))
    return {
        "on_harmful": tuple(dict.fromkeys(harmful)),
        "on_over_refusal": tuple(dict.fromkeys(over_refusal)),
    }


def chosen_policy(
    settings: PolicySettings, guard: LatentGuard, on_harmful: OnHarmful | None, on_over_refusal: OnOverRefusal | None
) -> Policy:
    """The policy of one request.

    Args:
        settings: the server's.
        guard: the server's.
        on_harmful, on_over_refusal: what the request chooses; None keeps the server's own.

    Raises:
        NotAllowed: the operator has not allowed it.
        NotPossible: the guard cannot do it.
    """
    choices = allowed_choices(settings)
    for param, choice in (("on_harmful", on_harmful), ("on_over_refusal", on_over_refusal)):
        if choice is not None and choice not in choices[param]:
            raise NotAllowed(param, choice, choices[param])
    policy = Policy(
        on_harmful or settings.on_harmful, on_over_refusal or settings.on_over_refusal, settings.on_unjudged
    )
    check_possible(guard, policy)
    return policy


def check_possible(guard: LatentGuard, policy: Policy) -> None:
    """Refuse a policy that the guard cannot carry out.

    Raises:
        NotPossible: steering without a refusal direction, or releasing without it or a belief of refusal.
    """
    if policy.on_harmful == "steer" and guard.steering is None:
        raise NotPossible("on_harmful", "steer", "refusal direction")
    if policy.on_over_refusal == "release" and guard.steering is None:
        raise NotPossible("on_over_refusal", "release", "refusal direction")
    if policy.on_over_refusal == "release" and guard.refusal is None:
        raise NotPossible("on_over_refusal", "release", "belief of refusal")
