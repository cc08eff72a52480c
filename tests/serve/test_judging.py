from __future__ import annotations

import threading
import time

from tests.guard.taught import many
from undertow.guard import LatentGuard
from undertow.serve.jobs import Judgement
from undertow.serve.judging import Judges
from undertow.serve.replies import Item, Judging, Queues

PROMPTS = many("harmful", 12, 7) + many("harmless", 12, 7)


def asked(guard: LatentGuard, count: int, deadline: float = 60.0) -> tuple[Judging, list[Item]]:
    judging = Judging([None] * count, "refuse", lambda judging: None, time.monotonic() + deadline, open=count)
    return judging, [Item(judging, index, guard.model.render(PROMPTS[index])) for index in range(count)]


def judges_of(guard: LatentGuard | None, queues: Queues) -> tuple[Judges, list[tuple[str, int, int]]]:
    passes: list[tuple[str, int, int]] = []
    judges = Judges(guard, queues, 8192, 64, lambda *counted: passes.append(counted), lambda error: None)
    return judges, passes


def test_what_waits_is_judged_together_and_as_the_guard_does(guard: LatentGuard) -> None:
    queues = Queues()
    judges, passes = judges_of(guard, queues)
    judging, items = asked(guard, 24)
    queues.items.extend(items)
    judges.step(None)
    assert sum(rows for _, rows, _ in passes) == 24 and len(passes) < 6
    assert not queues.items and judging.open == 0
    wanted = guard.judge(PROMPTS)
    assert [found.verdict.flagged for found in judging.results] == [verdict.flagged for verdict in wanted]
    assert [found.action for found in judging.results] == ["flagged" if one.flagged else "none" for one in wanted]


def test_what_nobody_waits_for_is_left_out(guard: LatentGuard) -> None:
    queues = Queues()
    judges, passes = judges_of(guard, queues)
    late, items = asked(guard, 3, deadline=-1.0)
    gone, others = asked(guard, 2)
    gone.cancelled = True
    wanted, last = asked(guard, 1)
    queues.items.extend([*items, *others, *last])
    judges.step(None)
    assert passes == [("judging", 1, len(last[0].rendered))] and wanted.open == 0
    assert late.results == [None] * 3 and gone.results == [None] * 2


def test_it_lingers_for_those_who_were_judged_together_before(guard: LatentGuard) -> None:
    queues = Queues()
    judges, passes = judges_of(guard, queues)
    _, items = asked(guard, 8)
    queues.items.extend(items)
    judges.step(None)
    judges._seconds = 20.0  # as if that had taken long
    passes.clear()
    again, items = asked(guard, 8)
    queues.items.append(items[0])

    def rest() -> None:
        for item in items[1:]:
            time.sleep(0.02)
            queues.add(item)

    later = threading.Thread(target=rest)
    later.start()
    begun = time.monotonic()
    judges.step(None)
    later.join()
    assert sum(rows for _, rows, _ in passes) == 8 and again.open == 0
    assert time.monotonic() - begun < 5.0, "it waits no longer than for the last of them"


def test_it_lingers_no_longer_than_its_share_and_not_beside_other_work(guard: LatentGuard) -> None:
    for beside, replies in ((None, False), (None, True), (0.01, False)):
        queues = Queues()
        judges, _ = judges_of(guard, queues)
        _, items = asked(guard, 8)
        queues.items.extend(items)
        judges.step(None)
        judges._seconds = 20.0 if replies or beside else 0.2
        if replies:
            queues.replies.append(object())  # type: ignore[arg-type]
        lone, items = asked(guard, 1)
        queues.items.extend(items)
        begun = time.monotonic()
        judges.step(beside)
        assert lone.open == 0 and time.monotonic() - begun < 5.0
        assert queues.wanted == 0


def test_one_prompt_after_another_is_judged_at_once(guard: LatentGuard) -> None:
    queues = Queues()
    judges, _ = judges_of(guard, queues)
    for _ in range(2):
        judging, items = asked(guard, 1)
        queues.items.extend(items)
        judges.step(None)
        judges._seconds = 20.0
        assert judging.open == 0


def test_without_a_guard_nothing_is_judged(guard: LatentGuard) -> None:
    queues = Queues()
    judges, passes = judges_of(None, queues)
    judging, items = asked(guard, 2)
    queues.items.extend(items)
    judges.step(None)
    tokens = [len(item.rendered) for item in items]
    assert judging.results == [Judgement(None, "none", None, count) for count in tokens] and passes == []
