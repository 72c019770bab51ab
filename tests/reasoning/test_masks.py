from millet.models.chat_template import ChatTemplate
from millet.reasoning.format import think_format
from millet.reasoning.masks import TokenMasks
from tests.reasoning.fakes import CLOSE_ID, END, OPEN_ID, PREOPENED, START, VOCAB, Pieces


def masks(tokenizer: Pieces, rows: int = VOCAB) -> TokenMasks:
    think = think_format(ChatTemplate(PREOPENED, {}), tokenizer)  # type: ignore[arg-type]
    return TokenMasks(tokenizer, think, (END, 300), rows)  # type: ignore[arg-type]


def test_ends_control_tokens_and_marks_lead_to_no_answer() -> None:
    tokenizer = Pieces(marks=True)
    assert tokenizer.piece("an end") == 300
    allowed = masks(tokenizer).no_end
    assert allowed.shape == (VOCAB,)
    assert (~allowed).nonzero().flatten().tolist() == [END, START, OPEN_ID, CLOSE_ID, 300]


def test_visible_tokens_have_more_than_blanks() -> None:
    tokenizer = Pieces(marks=True)
    end, blank, word = (tokenizer.piece(text) for text in ("an end", " \n\t", " a"))
    visible = masks(tokenizer).visible
    assert visible[[word, ord("x"), 0xE2, 0x80]].all()
    assert not visible[[end, blank, ord(" "), ord("\n"), END, OPEN_ID, CLOSE_ID]].any()
    assert not visible[301 + 2 :].any()  # nothing stands at these ids


def test_embedding_larger_than_the_tokenizer() -> None:
    tokenizer = Pieces(marks=True)
    visible = masks(tokenizer, VOCAB + 64).visible
    assert visible.shape == (VOCAB + 64,)
    assert not visible[VOCAB:].any()


def test_opening_a_thought_can_be_forbidden_where_one_token_does_it() -> None:
    allowed = masks(Pieces(marks=True)).no_thought
    assert allowed is not None
    assert (~allowed).nonzero().flatten().tolist() == [OPEN_ID]
    assert masks(Pieces(marks=False)).no_thought is None
