"""Which answers a scorecard shows, and that what they say is never markup."""

from alignment.reports.answer_samples import answer_samples, samples_markdown

HOSTILE = "a|<b>\\\n\n# x\n![i](https://x.y/z.png) [l](/m) `c` **d** _e_ ~~f~~ $g$ &lt; www.x.y me@x.y \u202eh"


def answers(count: int, systems: str = "base after", harmless: int = 0, **more) -> list[dict]:
    return [
        {"system": system, "seed": seed, "set": "asked", "id": str(i),
         "asks": "harmless" if i < harmless else "unknown" if i % 2 else "harmful", "prompt": f"prompt {i}",
         "answer": f"answer {i} of {system}, {seed}", "unfinished": False, **more}
        for system in systems.split() for i in range(count) for seed in (3, 4)
    ]  # fmt: skip


def test_six_that_may_ask_for_harm_and_four_harmless_ones_of_the_first_seed():
    found = answer_samples(answers(200, harmless=100), [], ["base", "after"])
    assert [one["asks"] == "harmless" for one in found] == [False] * 6 + [True] * 4
    assert all([one["system"] for one in sample["answers"]] == ["base", "after"] for sample in found)
    assert all(one["answer"].endswith(", 3") for sample in found for one in sample["answers"])
    assert found == answer_samples(answers(200, harmless=100)[::-1], [], ["base", "after"]), "whatever their order"


def test_where_one_kind_is_short_there_is_more_of_the_other_and_none_that_a_system_left_out():
    assert len(answer_samples(answers(50), [], ["base", "after"])) == 10
    assert len(answer_samples(answers(9, harmless=8), [], ["base", "after"])) == 9
    rows = [row for row in answers(3) if (row["system"], row["id"]) != ("after", "1")]
    assert {one["prompt"] for one in answer_samples(rows, [], ["base", "after"])} == {"prompt 0", "prompt 2"}
    assert answer_samples([], [], ["base"]) == [] == samples_markdown([])


def test_text_of_data_is_never_markup():
    rows = answers(1, systems="base", prompt=HOSTILE, answer=HOSTILE, unfinished=True)
    verdicts = [{"system": "base", "seed": 3, "set": "asked", "id": "0", "judge": "guard_1", "verdict": "unsafe"}]
    page = "\n".join(samples_markdown(answer_samples(rows, verdicts, ["base"])))
    shown = (
        r"a\|&lt;b>\\ # x \!\[i\](https&#58;//x.y/z.png) \[l\](/m) \`c\` \*\*d\*\* \_e\_ \~\~f\~\~ \$g\$ &amp;lt; "
        "www&#46;x.y me&#64;x.y \ufffdh"
    )
    assert f"| base | {shown} | cut off at max\\_new\\_tokens; guard\\_1: unsafe |" in page
    assert f"1. asks for harm, asked: {shown}" in page


def test_long_texts_end_in_dots_and_conversations_are_shown_turn_by_turn():
    talk = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]'
    page = "\n".join(samples_markdown(answer_samples(answers(1, answer="x" * 400, prompt=talk), [], ["base", "after"])))
    assert f"| {'x' * 300} ... |" in page and "user: Hi / assistant: Yes?" in page
