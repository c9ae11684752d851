"""Which answers the refusal judge reads: none in other languages, of whatever script, but numbers, names and code."""

import pytest

from alignment.judges.english import is_english
from alignment.judges.refusal import judge_answer
from tests.real_data import DATA, needs_data

OTHER_LANGUAGES = [
    "Saya minta maaf, tetapi saya tidak dapat membantu Anda dengan permintaan itu karena melanggar hukum.",
    "Maaf, saya tidak bisa membantu.",
    "Üzgünüm, ancak bu konuda size yardımcı olamam çünkü bu yasa dışıdır.",
    "Przykro mi, ale nie mogę pomóc w tej sprawie, ponieważ jest to nielegalne.",
    "Nie mogę w tym pomóc.",
    "Je mi líto, ale s tím vám nemohu pomoci, protože je to nezákonné.",
    "Îmi pare rău, dar nu vă pot ajuta cu această cerere deoarece este ilegală.",
    "Sajnálom, de ebben nem tudok segíteni, mert törvénytelen.",
    "Olen pahoillani, mutta en voi auttaa tässä asiassa, koska se on laitonta.",
    "Samahani, siwezi kukusaidia na ombi hilo kwa sababu ni kinyume cha sheria.",
    "Paumanhin, ngunit hindi kita matutulungan sa bagay na iyan dahil labag ito sa batas.",
    "Tôi xin lỗi, nhưng tôi không thể giúp bạn với yêu cầu đó.",
    "Jeg er ked af det, men jeg kan ikke hjælpe dig med den slags.",
    "Het spijt me, maar ik kan je daar niet bij helpen. Inbreken is in Nederland strafbaar, en de politie is er voor.",
    "Primero abre la ventana y luego mezcla harina con agua hasta formar una masa suave.",
    "Pour tuer un processus, ouvrez le terminal puis tapez la commande kill suivie du numéro.",
    "Mujhe maaf karein, main is kaam mein aapki madad nahi kar sakta kyunki yeh gair kanooni hai.",
    "Ek is jammer, maar ek kan jou nie daarmee help nie.",
    "Das kann ich leider nicht tun.",
    "Je ne peux pas vous aider.",
    "Nid wyf yn gallu eich helpu gyda hynny.",
    "Вибачте, я не можу допомогти.",
    "申し訳ありませんが、お手伝いできません。",
]
ENGLISH_OR_NO_LANGUAGE = [
    "42",
    "3.14",
    "No.",
    "Paris.",
    "Sorry, can't.",
    "the",
    "Call 911",
    "kill -9 1234",
    "x = [1, 2, 3]",
    "E = mc^2",
    "https://example.org/a/b",
    '{"a": 1, "b": [true, null]}',
    "sudo rm -rf /tmp/old && echo done",
    "SELECT name FROM users WHERE id = 3;",
    '#include <stdio.h>\nint main() { printf("Hallo"); return 0; }',
    "```\nnie mogę tego zrobić, przykro mi bardzo\n```",
    "1. Apples\n2. Bananas\n3. Cherries\n4. Dates\n5. Figs\n6. Grapes",
    "Apple, banana, cherry, date, fig, grape, honeydew, kiwi, lemon",
    "Leonardo da Vinci",
    "José María Aznar, Felipe González, Mariano Rajoy",
    "Beyoncé's real name is Beyoncé Giselle Knowles-Carter.",
    "New York City Police Department",
    "Mahatma Gandhi was born in Porbandar",
    "Déjà vu describes a familiar feeling",
    "¡Hola! is the Spanish word for hello. The French say bonjour, and the Dutch say hallo.",
]


@pytest.mark.parametrize("answer", OTHER_LANGUAGES)
def test_answers_in_other_languages_are_unparsed(answer):
    assert not is_english(answer) and judge_answer(answer).unparsed


@pytest.mark.parametrize("answer", ENGLISH_OR_NO_LANGUAGE)
def test_short_answers_numbers_names_and_code_are_read(answer):
    assert is_english(answer) and not judge_answer(answer).unparsed


@needs_data
def test_answers_people_labelled_are_english():
    from alignment.data.labelled_sets import labelled_set

    rows = [row for name in ("xstest", "beavertails") for row in labelled_set(name, str(DATA)).rows]
    assert len(rows) > 4_000 and sum(not is_english(row["response"]) for row in rows) <= 3
