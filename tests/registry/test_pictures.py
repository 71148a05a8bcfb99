from llmagentos.core.records import ModelVersion
from llmagentos.registry import pictures


def version(number: int, **scores: float) -> ModelVersion:
    return ModelVersion(id=number, dir="", manifest_hash="", created=0, scores=scores)


def test_pictures_are_png():
    versions = [version(1, facts=0.1), version(2, facts=0.9, news=1.0)]
    for draw in (pictures.forgetting_matrix, pictures.accuracy_over_versions):
        assert pictures.png(draw(versions)).startswith(b"\x89PNG")


def test_nothing_measured_is_no_picture():
    assert pictures.forgetting_matrix([version(1)]) is None
    assert pictures.accuracy_over_versions([]) is None


def test_the_matrix_has_a_row_a_version_and_a_column_a_suite():
    figure = pictures.forgetting_matrix([version(1, facts=0.1), version(2, facts=0.9, news=1.0, stale=0.2)])
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (2, 2)
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.10", "0.90", "1.00"]
