import pytest

from edge_simulator.demo.script import full_story, steps_between

_SECOND_YEAR = 7152


@pytest.mark.parametrize("days", [6, 59, 904])
def test_every_run_tells_the_whole_story(days: int) -> None:
    """A short run has every part of the long one."""
    acts = {step.act for step in full_story(days, _SECOND_YEAR, is_scripted=False)}

    assert acts == {
        "cut",
        "mend",
        "kill",
        "publish_base",
        "offer_tampered_base",
        "offer_wild_layer",
    }


@pytest.mark.parametrize("days", [6, 904])
def test_steps_come_in_order_and_every_cut_is_mended(days: int) -> None:
    """The story never goes back, and no link stays cut."""
    story = full_story(days, _SECOND_YEAR, is_scripted=True)
    links = [step.act for step in story if step.act in ("cut", "mend")]

    assert story == sorted(story)
    assert links == ["cut", "mend"] * (len(links) // 2)


def test_the_long_cut_lasts_two_weeks() -> None:
    """The link is gone for 14 days of 24 rows, in the second year."""
    story = full_story(904, _SECOND_YEAR, is_scripted=False)
    rows = {step.act: step.row for step in story}

    assert rows["mend"] - rows["cut"] == 14 * 24
    assert rows["cut"] > _SECOND_YEAR


def test_the_device_is_killed_in_the_middle_of_a_day() -> None:
    """A kill at a day's edge would prove less."""
    for days in (6, 904):
        kills = [
            step for step in full_story(days, _SECOND_YEAR, is_scripted=False) if step.act == "kill"
        ]

        assert [step.row % 24 for step in kills] == [12]


def test_every_step_happens_once() -> None:
    """Days cut the story without losing or repeating a step."""
    story = full_story(904, _SECOND_YEAR, is_scripted=True)

    played = [step for day in range(904) for step in steps_between(story, 24 * day, 24 * day + 24)]

    assert played == story
