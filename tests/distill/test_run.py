"""What a distillation is planned as: by probabilities where tokens are shared, by texts where they are not."""

from pathlib import Path

import pytest

from llmagentos.config.learning import ReplayConfig
from llmagentos.core.errors import ConfigError
from llmagentos.distill.run import prepare, register
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.snapshots import Draft
from llmagentos.training.launch import launch
from llmagentos.training.rows import Rows
from tests.replay.test_preference import DISLIKED, LIKED, corrected
from tests.tiny import add_tiny, save_tiny


@pytest.fixture
def here(config, home):
    """A home with a champion, something remembered and something new; training in this process."""
    Buffer(home, ReplayConfig()).bootstrap(LIKED[:1], LIKED[1:2])
    champion = add_tiny(home, 1)
    Releases(home).first(champion.id, by="test", reason="test")
    training = config.training.model_copy(update={"workers": 0, "engine": "torch"})
    distill = config.distill.model_copy(
        update={
            "max_steps": 12,
            "min_steps": 4,
            "on_policy": config.distill.on_policy.model_copy(update={"steps": 6, "prompts": 4}),
        }
    )
    snapshot = snapshots.create(home, Draft(examples=[LIKED[2], corrected("c")]))
    return config.model_copy(update={"training": training, "distill": distill}), snapshot, champion


def killed(model, folder):
    model.config.save_pretrained(folder)
    raise KeyboardInterrupt


def student_of(home, folder: Path, vocabulary: int):
    save_tiny(folder / f"student-{vocabulary}", 2, vocabulary)
    return Versions(home).add(folder / f"student-{vocabulary}", role="student")


def test_a_student_with_its_teachers_tokens_learns_its_probabilities(here, home, tmp_path):
    config, snapshot, champion = here
    made = prepare(config, home, snapshot, Path(champion.dir), student_of(home, tmp_path, 400), tmp_path / "run")
    assert set(made.phase.terms) == {"teacher_kl", "next_token"}
    assert made.phase.annotation.model == champion.dir
    assert made.phase.rows == str(tmp_path / "run" / "rows.arrow")


def test_a_student_from_nothing_that_was_half_written_is_made_anew(here, home, tmp_path):
    config, snapshot, champion = here

    def made() -> Path:
        return Path(prepare(config, home, snapshot, Path(champion.dir), None, tmp_path / "run").phase.init)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transformers.PreTrainedModel.save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            made()
    assert load_model(made()).config.vocab_size == Renderer(champion.dir).vocab_size
    assert made() == tmp_path / "run" / "distill" / "fresh"


def test_what_cannot_be_distilled_with_is_told_or_mended_before_anything_is_trained(here, home, tmp_path):
    config, snapshot, champion = here
    student, divergent = student_of(home, tmp_path, 400), config.distill.on_policy.model_copy(update={"divergence": "kl"})
    much, wrong = (config.distill.model_copy(update=u) for u in ({"top_k": 100_000}, {"on_policy": divergent}))
    made = prepare(config.model_copy(update={"distill": much}), home, snapshot, Path(champion.dir), student, tmp_path / "run")
    assert made.phase.annotation.top_k == Renderer(champion.dir).vocab_size - 1
    with pytest.raises(ConfigError, match="jsd"):
        prepare(config.model_copy(update={"distill": wrong}), home, snapshot, Path(champion.dir), student, tmp_path / "other")


def test_judgements_alone_leave_the_student_as_it_is(here, home, tmp_path):
    config, _, champion = here
    snapshot = snapshots.create(home, Draft(examples=[], judged=DISLIKED))
    assert prepare(config, home, snapshot, Path(champion.dir), student_of(home, tmp_path, 400), tmp_path / "run") is None


def test_a_student_with_other_tokens_gets_rows_of_its_own_and_the_teachers_texts(here, home, tmp_path):
    config, snapshot, champion = here
    student = student_of(home, tmp_path, 290)
    made = prepare(config, home, snapshot, Path(champion.dir), student, tmp_path / "run")
    assert set(made.phase.terms) == {"next_token"}
    assert made.phase.annotation is None
    own, theirs = Rows(made.phase.rows), Rows(tmp_path / "run" / "rows.arrow")
    assert own.names == theirs.names
    readers = Renderer(student.dir), Renderer(champion.dir)
    assert [readers[0].text(own[k][0].tolist()) for k in range(own.count)] == [
        readers[1].text(theirs[k][0].tolist()) for k in range(theirs.count)
    ]
    launch([made.phase], config.training, tmp_path / "run")
    version = register(config, home, made, champion, "cycle-1")
    assert version.teacher == champion.id
    assert register(config, home, made, champion, "cycle-2") == version
    assert register(config, home, made, add_tiny(home, 3), "cycle-3").teacher != champion.id
    assert load_model(version.dir).config.vocab_size == 290
    assert Renderer(version.dir).hash == Renderer(student.dir).hash
