"""Signals at random moments, killed members of a process group, two of everything at once, and clocks that are set."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
from harness import Outcome, Trial, Verdict, difference, fork, root, rows, shim, start, use_folders, wait
from writes import NAME, data_state, go_on, make_images, make_parent, pack, prepare_data, run_state, score_run, tiny

from workbench import Config, Run, train
from workbench.messages import WorkbenchError
from workbench.runs import ACTIVE, create_run, liveness, reserve
from workbench.studies.planned import PlannedRun
from workbench.studies.sweep import execute
from workbench.training import launch

MINUTE = 60.0
FOREIGN = ("gloo", "nccl", "c10d", "traceback", "runtimeerror", "exitcode", "=====")  # words of libraries


# ---------------------------------------------------------------------------------------------------- launched runs


def long_run(**changes) -> Config:
    """Some seconds of training, with five checkpoints."""
    settings = dict(steps=100, log_every=10, sample_every=50, checkpoint_every=20, evaluate_every=0)
    return tiny(**settings | changes)


def launch_it(**changes) -> None:
    launch(long_run(**changes))


def launched() -> list[psutil.Process]:
    """The living processes that were launched in this trial, whatever became of those that launched them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULTS_ROOT") == str(root()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], bool], timeout: float = MINUTE) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def all_ended(timeout: float = 2 * MINUTE) -> bool:
    """Wait until all launched processes are gone; else kill them, and False."""
    if until(lambda: not launched(), timeout):
        return True
    for process in launched():
        process.kill()
    return False


def state() -> dict:
    """As of `run_state`, but for what a launched training prints."""
    whole = run_state()
    return whole | dict(files=[name for name in whole["files"] if name != "train.log"])


def resume_and_compare(verdict: Verdict, expected: dict) -> Verdict:
    again = fork(go_on, lambda: train(long_run()), 100)
    if again.how != "done":
        verdict.lost = verdict.lost or f"it cannot go on: {again.text[-300:]}"
    else:
        found = fork(state)
        verdict.lost = verdict.lost or (difference(expected, found.value) if found.how == "done" else found.text[-300:])
    return verdict


def told(status: dict) -> bool:
    """Whether a status tells in one line of its own words what is the matter, and how to go on."""
    text = status["message"]
    return "\n" not in text and bool(text) and not any(word in text.lower() for word in FOREIGN) and ("resume" in text or "start" in text)


def moment(seed: int, expected: dict, duration: float) -> Verdict:
    """Send a signal at a random moment to a launched training, look, go on, and compare."""
    draw = random.Random(seed)
    number = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP][seed % 5]
    fork(launch_it)
    time.sleep(draw.uniform(0, duration))
    run, verdict = Run(NAME), Verdict()
    status = run.status()
    if status["state"] not in ACTIVE:
        all_ended()
        return resume_and_compare(verdict, expected)
    everybody = draw.random() < 0.5  # or the one that signed the status
    for process in launched() if everybody else [psutil.Process(status["pid"])]:
        process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(1.5)
        if run.status()["state"] not in (*ACTIVE, "finished"):
            verdict.lost = f"it sleeps, and the status says {run.status()['state']}"
        for process in launched():
            process.send_signal(signal.SIGCONT)
    if not all_ended():
        verdict.lost = verdict.lost or f"its processes live two minutes after {number.name}"
    status = run.status()
    if status["state"] in ACTIVE:
        verdict.lost = verdict.lost or f"it is dead, and the status says {status['state']}"
    if status["state"] != "finished":
        verdict.told = told(status)
        verdict.text = "" if verdict.told else f"{number.name}: {status['state']}: {status['message'][:300]!r}"
    return resume_and_compare(verdict, expected)


def moments(count: int = 40) -> Iterator[Trial]:
    """Signals at random moments."""
    folder = Path(os.environ["FAULTS_SCRATCH"]) / "moments"
    folder.mkdir()
    use_folders(folder)
    began = time.monotonic()
    fork(launch_it)
    if not all_ended():
        raise RuntimeError("an undisturbed training does not end")
    expected, duration = fork(state).value, time.monotonic() - began
    for seed in range(count):
        name = ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP and SIGCONT"][seed % 5]
        yield Trial(f"{name} at random moments", f"moments/{seed}", partial(moment, seed, expected, duration))


# --------------------------------------------------------------------------------------------------- process groups


def by_rank(processes: list[psutil.Process]) -> dict[int, psutil.Process]:
    found = {}
    for process in processes:
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


def killed_member(count: int, rank: int) -> Verdict:
    """Kill one process of a training by several; the others have to end, and tell, within a minute; then it goes on."""
    begin = partial(launch_it, num_processes=count, steps=40, checkpoint_every=10, sample_every=20)
    fork(begin)
    run, verdict = Run(NAME), Verdict()
    if not until(lambda: bool(run.checkpoint_steps()) or not launched(), 2 * MINUTE):
        all_ended(0)
        return Verdict(lost="it does not begin")
    victims = by_rank(launched())
    if rank not in victims or run.status()["state"] not in ACTIVE:
        return Verdict(lost=f"it ended before it was disturbed: {run.status()}")
    victims[rank].kill()
    if not all_ended(MINUTE):
        verdict.lost = "the others still live after a minute"
    status = run.status()
    if status["state"] in ACTIVE:
        verdict.lost = verdict.lost or f"it is dead, and the status says {status['state']}"
    verdict.told = told(status) and (NAME in status["message"])
    verdict.text = "" if verdict.told else f"{status['state']}: {status['message'][:400]!r}"
    again = fork(lambda: launch(Config.from_parameters(dict(resume=NAME))) and None)
    if again.how != "done" or not all_ended() or run.status()["state"] != "finished":
        verdict.lost = verdict.lost or f"it cannot go on: {again.text[-200:]} {run.status()['message'][:200]}"
        return verdict
    interrupted = fork(state).value
    run.path.rename(run.path.with_name("interrupted"))
    fork(begin)
    all_ended()
    compared = (lambda whole: whole) if count <= 2 else outline
    verdict.lost = verdict.lost or difference(compared(fork(state).value), compared(interrupted))
    return verdict


def outline(whole: dict) -> dict:
    """A state without its numbers: three processes and more sum gradients in another order after a resume, and so round differently."""
    records = {name: [record["step"] for record in whole[name]] for name in ("history", "spectra", "evaluations")}
    return dict(files=whole["files"], config=whole["config"], status=whole["status"], provenance=whole["provenance"], records=records)


def killed_evaluation(rank: int) -> Verdict:
    """Kill one process of an evaluation by two."""
    fork(make_parent)
    pid, result = start(partial(score_run, num_processes=2))
    verdict = Verdict()

    def started() -> dict:
        return by_rank(psutil.Process(pid).children(recursive=True)) if psutil.pid_exists(pid) else {}

    if not until(lambda: len(started()) == 2):
        return Verdict(lost=f"it does not begin: {wait(pid, result, 0).text}")
    time.sleep(3)
    victims = started()
    if rank in victims:
        victims[rank].kill()
    outcome = wait(pid, result, MINUTE)
    if outcome.how != "done":
        verdict.told = outcome.how == "told" and not any(word in outcome.text.lower() for word in FOREIGN)
        verdict.text = "" if verdict.told else f"{outcome.how}: {outcome.text[-400:]}"
    verdict.lost = "the others still wait after a minute" if outcome.how == "hung" else ""
    again = fork(score_run)
    if again.how != "done" or [record["step"] for record in again.value] != [2, 4]:
        verdict.lost = verdict.lost or f"it cannot be repeated: {again.text[-300:]}"
    return verdict


def processes() -> Iterator[Trial]:
    """Groups of processes of which one is killed."""
    for count, rank in ((2, 0), (2, 1), (4, 0), (4, 3)):
        yield Trial(f"one of {count} training processes killed", f"processes/{count}-{rank}", partial(killed_member, count, rank), 600)
    for rank in (0, 1):
        yield Trial("one of 2 evaluating processes killed", f"processes/evaluation-{rank}", partial(killed_evaluation, rank))


# ------------------------------------------------------------------------------------------------- two of everything


def at_once(*works: Callable, delay: float = 0.0, timeout: float = 200) -> list[Outcome]:
    """Start works at the same time, or each `delay` seconds after the one before."""
    began = []
    for work in works:
        began.append(start(work))
        time.sleep(delay)
    return [wait(*one, timeout) for one in began]


def judged(outcomes: list[Outcome], needed: int = 1) -> Verdict:
    """At least `needed` are done, and the others tell why they are not."""
    others = [outcome for outcome in outcomes if outcome.how != "done"]
    verdict = Verdict(told=all(outcome.how == "told" for outcome in others) if others else None)
    verdict.text = "" if verdict.told is not False else next(o.text[-300:] for o in others if o.how != "told")
    if len(outcomes) - len(others) < needed:
        verdict.lost = f"{len(outcomes) - len(others)} of {len(outcomes)} were done: {others[0].text[-300:]}"
    return verdict


def two_new_runs(delay: float) -> Verdict:
    expected = alone(lambda: train(long_run()))
    verdict = judged(at_once(lambda: train(long_run()), lambda: train(long_run()), delay=delay))
    verdict.lost = verdict.lost or difference(expected, fork(state).value)
    return verdict


def alone(work: Callable) -> dict:
    """The state that work comes to alone, in a folder of its own."""
    here = root()
    (here / "alone").mkdir()
    use_folders(here / "alone")
    outcome = fork(work)
    if outcome.how != "done":
        raise RuntimeError(outcome.text)
    expected = fork(state).value
    use_folders(here)
    return expected


def begin() -> None:
    """A run that was stopped at step 20."""
    train(long_run(steps=20))


def go_on_to_the_end() -> None:
    train(Config.from_parameters(dict(resume=NAME, steps=100)))


def begin_and_go_on() -> None:
    begin()
    go_on_to_the_end()


def two_resumes(delay: float) -> Verdict:
    expected = alone(begin_and_go_on)
    fork(begin)
    verdict = judged(at_once(go_on_to_the_end, go_on_to_the_end, delay=delay))
    verdict.lost = verdict.lost or difference(expected, fork(state).value)
    return verdict


def launch_on() -> None:
    launch(Config.from_parameters(dict(resume=NAME, steps=100)))


def two_launches(delay: float) -> Verdict:
    expected = alone(begin_and_go_on)
    fork(begin)
    outcomes = at_once(launch_on, launch_on, delay=delay)
    verdict = judged(outcomes)
    all_ended()
    if Run(NAME).status()["state"] != "finished":
        verdict.lost = verdict.lost or f"it is {Run(NAME).status()['state']}: {Run(NAME).status()['message'][:200]}"
    verdict.lost = verdict.lost or difference(expected, fork(state).value)
    return verdict


def launch_and_train(delay: float) -> Verdict:
    """A launch, and a training in the foreground while it starts."""
    expected = alone(begin_and_go_on)
    fork(begin)
    verdict = judged(at_once(launch_on, go_on_to_the_end, delay=delay))
    all_ended()
    verdict.lost = verdict.lost or difference(expected, fork(state).value)
    return verdict


def two_names() -> Verdict:
    """Eight processes want a name and a folder for the same settings."""
    config = tiny(run="")
    outcomes = at_once(*[partial(reserve, config)] * 4, *[lambda: create_run(config).name] * 4)
    verdict = judged(outcomes, 8)
    names = [outcome.value for outcome in outcomes]
    verdict.lost = verdict.lost or ("" if len(set(names)) == 8 else f"a name was given twice: {sorted(names)}")
    return verdict


def two_evaluations(delay: float) -> Verdict:
    fork(make_parent)
    verdict = judged(at_once(score_run, score_run, delay=delay), 2)
    found = fork(lambda: {(r["step"], str(r["scores"])) for r in Run("parent").evaluations() if "seed" in r}).value
    verdict.lost = verdict.lost or ("" if len(found) == 2 else f"{len(found)} different records of two checkpoints")
    return verdict


def many_packings(work: Callable, place: str, delay: float) -> Verdict:
    """Three processes pack the same data at once."""
    fork(make_images)
    verdict = judged(at_once(work, work, work, delay=delay))
    together = fork(data_state, place)
    verdict.lost = verdict.lost or ("" if together.how == "done" else together.text[-300:])
    alone = root() / "alone"
    alone.mkdir()
    use_folders(alone)
    fork(make_images), fork(work)
    verdict.lost = verdict.lost or difference(fork(data_state, place).value, {**together.value, "files": [
        name for name in together.value["files"] if not name.startswith("alone")
    ]})  # fmt: skip
    return verdict


def planned_runs() -> list[PlannedRun]:
    base = tiny(run="", steps=4, evaluate_every=0)
    return [PlannedRun.of(base, "base", {}, 0), PlannedRun.of(base, "base", {}, 1)]


def two_sweeps(delay: float) -> Verdict:
    verdict = judged(at_once(lambda: execute(planned_runs()), lambda: execute(planned_runs()), delay=delay, timeout=300), 2)
    for planned in planned_runs():
        steps = [row["step"] for row in rows(planned.run.path / "history.jsonl")] if planned.run else []
        if planned.state != "finished" or steps != [1, 2, 3, 4]:
            verdict.lost = verdict.lost or f"{planned.state}, with a history of steps {steps}"
    return verdict


def killed_sweep() -> Verdict:
    """A sweep that is killed takes its training along, which goes on when the sweep is repeated."""
    settings = tiny(run="", steps=100_000, evaluate_every=0)
    pid, result = start(lambda: execute([PlannedRun.of(settings, "base", {}, 0)]))
    planned = PlannedRun.of(settings, "base", {}, 0)
    begun = until(lambda: planned.run is not None and planned.state == "running", 2 * MINUTE)
    os.kill(pid, signal.SIGKILL)
    wait(pid, result)
    if not begun:
        return Verdict(lost="it does not begin")
    ended = until(lambda: planned.state not in ACTIVE, MINUTE)
    if not ended:
        psutil.Process(planned.run.status()["pid"]).kill()
    return Verdict(lost="" if ended else "its training goes on after a minute")


def twice() -> Iterator[Trial]:
    """Two of everything at once."""
    for delay in (0.0, 0.3, 1.0):
        yield Trial("two runs of one new run", f"twice/new-{delay}", partial(two_new_runs, delay))
        yield Trial("two runs go on with one run", f"twice/resume-{delay}", partial(two_resumes, delay))
        yield Trial("two evaluations of one run", f"twice/evaluation-{delay}", partial(two_evaluations, delay))
        for work, place in ((pack, "images"), (prepare_data, "packed")):
            name = "three packings of one data set"
            yield Trial(name, f"twice/{place}-{delay}", partial(many_packings, work, place, delay / 10))
    for delay in (0.0, 1.0, 4.0):
        yield Trial("two launches of one run", f"twice/launch-{delay}", partial(two_launches, delay))
        yield Trial("two launches of one run", f"twice/launch-and-train-{delay}", partial(launch_and_train, delay))
    yield Trial("eight runs of one name", "twice/names", two_names)
    yield Trial("two sweeps of the same runs", "twice/sweeps", partial(two_sweeps, 1.0), 400)
    yield Trial("a killed sweep", "twice/killed-sweep", killed_sweep, 400)


# ------------------------------------------------------------------------------------------------------------ clocks

STEPS_OF_A_CLOCK = (3, -3, 3600, -3600, 86400, -86400)  # seconds


def set_clock(seconds: float) -> None:
    """Set the clock of this process, and what the kernel says of when it booted, which follows."""
    shim().fault_clock(seconds)
    booted = psutil.boot_time()
    psutil._pslinux.boot_time = psutil.boot_time = lambda: booted + seconds
    psutil._pslinux.BOOT_TIME = booted + seconds


def slow(generator, step: int) -> dict:
    time.sleep(0.3)
    return dict(scores=dict(x=1.0), protocol="slow")


def slow_run() -> None:
    train(tiny(steps=16, evaluate_every=1, checkpoint_every=4), slow)


def looked_at(seconds: float, elsewhere: bool) -> tuple[str, str]:
    """What a process with another clock makes of a run that is being trained: its state, and what comes of training it."""
    set_clock(seconds)
    if elsewhere:
        liveness._machine = lambda: "another"
    seen = Run(NAME).status()["state"]
    try:
        train(Config.from_parameters(dict(resume=NAME)), slow)
    except WorkbenchError as error:
        return seen, str(error)
    return seen, ""


def clock_of_a_reader(seconds: float, elsewhere: bool = False) -> Verdict:
    pid, result = start(slow_run)
    run = Path(os.environ["WORKBENCH_OUTPUTS"]) / NAME
    verdict = Verdict(told=True)
    if not until(lambda: (run / "evaluations.jsonl").exists()):
        return Verdict(lost=f"it does not begin: {wait(pid, result, 0).text[-300:]}")
    seen = fork(looked_at, seconds, elsewhere)
    if seen.how != "done":
        verdict.told, verdict.text = False, seen.text[-300:]
    elif seen.value[0] not in ACTIVE and not (elsewhere and abs(seconds) > liveness.SILENCE):  # all that can be known of another machine
        verdict.lost = f"it is being trained, and the status says {seen.value[0]}"
    elif not seen.value[1]:
        verdict.lost = "two runs in one run"
    first = wait(pid, result)
    if first.how != "done":
        verdict.lost = verdict.lost or f"it was disturbed: {first.text[-300:]}"
    steps = [record["step"] for record in rows(run / "evaluations.jsonl")]
    verdict.lost = verdict.lost or ("" if steps == list(range(1, 17)) else f"evaluations of steps {steps}")
    return verdict


def jumping(generator, step: int) -> dict:
    """An evaluation during which the clock of the training itself is set, forth and back."""
    set_clock(0 if step % 3 == 0 else STEPS_OF_A_CLOCK[step % len(STEPS_OF_A_CLOCK)])
    return dict(scores=dict(x=1.0), protocol="clock")


def clock_of_a_training() -> Verdict:
    def calm(generator, step: int) -> dict:
        return dict(scores=dict(x=1.0), protocol="clock")

    config = tiny(steps=16, evaluate_every=1, checkpoint_every=4)
    expected = alone(lambda: train(config, calm))
    outcome = fork(lambda: train(config, jumping) and None)
    if outcome.how != "done":
        return Verdict(lost=outcome.text[-300:])
    seconds = [row["seconds"] for row in rows(Run(NAME).path / "history.jsonl")]
    if seconds != sorted(seconds) or seconds[-1] > 300:
        return Verdict(lost=f"its time of training: {seconds}")
    return Verdict(lost=difference(expected, fork(state).value))


def clocks() -> Iterator[Trial]:
    """Clocks that are set while a training runs."""
    for seconds in STEPS_OF_A_CLOCK:
        yield Trial("the clock of a reader is set", f"clock/{seconds}", partial(clock_of_a_reader, seconds))
    for seconds in (0, *STEPS_OF_A_CLOCK):
        yield Trial("a reader on another machine, its clock set", f"clock/elsewhere{seconds}", partial(clock_of_a_reader, seconds, True))
    yield Trial("the clock of the training is set", "clock/training", clock_of_a_training)
