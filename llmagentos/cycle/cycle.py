"""The walk: what was recorded becomes a better agent, or nothing changes. Read this file to know the product."""

import contextlib
from collections.abc import Callable

from llmagentos.collect.pipeline import collect
from llmagentos.collect.traces import trace
from llmagentos.config import Config
from llmagentos.core.errors import ConflictError
from llmagentos.cycle import artifacts, rebuild
from llmagentos.cycle.act import act, finish_decision, hold_untrained, looks_tampered_with, record_failure
from llmagentos.cycle.background import tracking_warmed_up
from llmagentos.cycle.due import not_due, reached
from llmagentos.cycle.result import CycleResult, held, nothing_new, skipped
from llmagentos.cycle.train import train
from llmagentos.cycle.walk import Walk
from llmagentos.distill import run as distill
from llmagentos.evaluate.candidates import choose
from llmagentos.evaluate.exam import set_exam
from llmagentos.evaluate.run import judge
from llmagentos.local.ray import connect
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.release.bootstrap import bootstrap
from llmagentos.release.promotion import finish_promotion
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease, of_cycles
from llmagentos.storage.maintenance import maintain
from llmagentos.training.launch import alone
from llmagentos.update import run as update


def cycle(config: Config, *, say: Callable[[str], None] = lambda line: None) -> CycleResult:
    """Run the four steps once and act on the gate's verdict. The champion serves on, whatever happens here.

    Raises ConflictError while another cycle runs, LeaseLostError when one took over, and what the steps raise.
    """
    home = Home(config.storage.root).open()
    bootstrap(config)
    update.configured(config)  # what is spelled wrongly is told also where nothing is new
    walk = Walk(config, home, say)
    if reason := not_due(config, home):
        return skipped(walk, reason, Releases(home).current().champion)
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(Lease(home, of_cycles(config.cycle.name), seconds=config.storage.lease_seconds))
        stack.callback(maintain, home)
        stack.callback(trace, config)
        stack.callback(tracking.sync, config)
        stack.callback(artifacts.drop_trainings, home)
        tracking.close_left(home, config.cycle.name)
        whole = stack.enter_context(walk.whole())
        stack.enter_context(connect(config))
        finish_promotion(config)
        finish_decision(home)
        rebuild.finish_erasures(config, lease.name)
        versions, now = Versions(home), Releases(home).current()
        champion, anchor, pupil = (versions.serving(n) for n in (now.champion, now.anchor, now.student))
        begin = rebuild.start(home, champion, pupil)

        with walk.step("collect") as outcome:
            outcome |= {"metrics": reached(home)}
            snapshot = collect(config, walk.id, anew=rebuild.owed(config, home, champion))
            outcome |= artifacts.collected(snapshot) if snapshot else {"status": "skipped"}
        if snapshot is None:
            whole |= {"status": "skipped"}
            return skipped(walk, nothing_new(config), now.champion)

        if looks_tampered_with(config, snapshot):
            lease.check()
            whole |= {"snapshot": snapshot.id, "tags": {"decision": "Hold"}}
            return held(walk, hold_untrained(config, snapshot, walk.id), now.champion, snapshot)

        stack.enter_context(tracking_warmed_up(config))
        try:
            exam = set_exam(config.evaluate, home, snapshot)
            folder = home.run(artifacts.training_folder(config, snapshot, begin.agent, exam))
            stack.enter_context(alone(folder))
            with walk.step("update") as outcome:
                first = update.prepare(config, home, snapshot, begin.agent, folder, begin.missed(home, snapshot))
                if first is None:
                    lease.check()
                    kept = rebuild.keep(config, snapshot, begin, champion, walk.id, update.KNOWN, lease.fence)
                    outcome |= {"status": "skipped"}
                    whole |= {"status": "skipped", "snapshot": snapshot.id}
                    return skipped(walk, update.KNOWN, kept, snapshot)
                runs, trained = train(config, home, snapshot, first, begin.student, folder)
                choice = choose(
                    config, exam, update.candidates(config, runs[0]), champion=champion, anchor=anchor, phase=runs[0].phase
                )  # fmt: skip
                lease.check()
                challenger = update.register(config, home, runs[0], walk.id, choice.candidate)
                outcome |= artifacts.trained(config, challenger, runs[0], trained, walk.folder("update"))
            student = None
            if len(runs) > 1:
                with walk.step("distill") as outcome:
                    student = distill.register(config, home, runs[1], challenger, walk.id)
                    outcome |= artifacts.trained(config, student, runs[1], trained, walk.folder("distill"))
            with walk.step("evaluate") as outcome:
                asked = {"champion": champion, "challenger": challenger, "anchor": anchor, "student": student}
                verdict = judge(config, home, exam, **asked, rows=folder / "rows.arrow")
                report = artifacts.report(home, verdict, runs, trained, choice, champion, challenger, student)
                artifacts.write(walk.folder("evaluate"), verdict, report)
                outcome |= {"version": challenger.id} | artifacts.evaluated(report)
        except ConflictError:  # somebody else has the lease or the folder: the snapshot is theirs to decide on
            raise
        except BaseException as problem:
            record_failure(config, walk.id, snapshot, problem, begin.agent.id)
            raise

        with walk.step("release") as outcome:
            lease.check()
            decision = act(config, walk.id, verdict.decision, snapshot, champion, challenger, student, lease.fence)
            outcome |= {"version": challenger.id, "tags": {"decision": decision.verdict}}
        whole |= {"snapshot": snapshot.id, "version": challenger.id, "tags": {"decision": decision.verdict}}
    return CycleResult(
        cycle_id=walk.id, decision=decision.verdict, reasons=decision.reasons, champion=Releases(home).current().champion,
        challenger=challenger.id, student=student.id if student else None, snapshot=snapshot.id, n_new=snapshot.n_new,
        seconds=walk.seconds, report=report,
    )  # fmt: skip
