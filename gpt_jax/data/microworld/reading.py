"""Reads a reply: what each of its clauses says, measured by what is known.

A reply is cut into sentences and those into as few clauses as can be understood. A clause is a
statement in any phrasing, a bare value, a sum, an admission that nothing is known, or it says
nothing. One that has a name, a value or a number and cannot be understood is `unclear`.
"""

import re
from collections.abc import Iterator

from gpt_jax.data.microworld import clauses, figures, frames
from gpt_jax.data.microworld.clauses import Words
from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.language import CLOSERS, COURTESY_PHRASES, OPENERS, RELATIONS
from gpt_jax.data.microworld.meanings import (
    FALSE,
    NOTHING,
    TRUE,
    UNCLEAR,
    UNKNOWN,
    Bare,
    Meaning,
    Said,
    Statement,
    Topic,
)
from gpt_jax.data.microworld.question import Fact, Question
from gpt_jax.data.microworld.wordings import (
    ABSTAINING,
    ASKING,
    ASKS,
    DOUBTS,
    HARMLESS,
    PERSONS,
    SOURCES_AFTER,
    SOURCES_BEFORE,
    TALK,
    TALK_WORDS,
    THAT_IS_IT,
)

MOST_TALK = 10  # words after the one that makes a reply to small talk fit
SIGNS = frozenset("+-=<>")


def _phrases(texts: tuple[str, ...]) -> str:
    plain = {" ".join(" ".join(words) for words, _ in clauses.sentences(text)) for text in texts}
    return "|".join(re.escape(text) for text in sorted(plain, key=len, reverse=True))


_LEADING = re.compile(rf"^(?:{_phrases((*COURTESY_PHRASES, *OPENERS))})(?: ,| :)? ")
_TRAILING = re.compile(rf" (?:, )?(?:{_phrases((*COURTESY_PHRASES, *CLOSERS))})$")


class ReplyReader:
    """Reads replies to the questions of one world."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.lexicon = {
            word.lower(): (kind.upper(), word)
            for kind, words in (*facts.values.items(), *facts.entities.items())
            for word in words
        }
        self.table, self.bare = frames.table(), frames.bare()

    def __call__(self, question: Question, text: str) -> list[Said]:
        """What every clause of a reply says, one after another."""
        return _Reply(self, question).read(text)


class _Reply:
    """The reading of one reply: who is spoken of changes from clause to clause."""

    def __init__(self, reader: ReplyReader, question: Question):
        self.reader, self.question = reader, question
        self.lexicon = reader.lexicon
        self.known = {fact[:2]: fact[2] for fact in (*question.hops, *question.said)}
        self.asked = question.hops[-1][:2] if question.hops else None
        self.question_words = clauses.asking_words(question)
        self.spoken_of = [self.asked[0]] if self.asked else []  # whom a pronoun may mean
        self.last: tuple[str, str] | None = None  # of the last statement of the sentence

    def read(self, text: str) -> list[Said]:
        found: list[Said] = []
        earlier = ""
        for words, end in clauses.sentences(clauses.unquoted(self.question, text)):
            words = tuple(HARMLESS.sub("", " ".join(words)).split())
            said = " ".join(words).rstrip(" ,:")
            if "?" in end:  # what is asked is not stated; but "Or Torby?" takes something back
                if words and not self._is_question(words):
                    found.append(UNCLEAR)
            elif not end and f" {said}" in earlier:
                pass  # cut off while it repeats itself
            else:
                found += self._sentence(words)
                earlier += f" {said} "
        return found

    def _is_question(self, words: Words) -> bool:
        """Whether a sentence with a question mark asks something, or takes up what was asked."""
        named = self._named(words)
        asks = words[0] in ASKS or named <= self.question_words
        return asks and words[0] not in DOUBTS

    def _named(self, words: Words) -> set[str]:
        return {word for word in words if word in self.lexicon or word.isdigit()}

    def _sentence(self, words: Words) -> list[Said]:
        """The fewest clauses that can be understood; one unclear one if there are none."""
        cuts = clauses.joints(words)
        if len(cuts) > clauses.MOST_JOINTS:
            return [UNCLEAR]
        best: list[list[list[Meaning]] | None] = [[]]  # up to each cut
        for j in range(1, len(cuts)):
            found = None
            for i in range(j):
                if best[i] is None or (found is not None and len(best[i]) + 1 >= len(found)):
                    continue
                piece = clauses.clause(words[cuts[i] : cuts[j]])
                meanings = self._meanings(piece, within=i > 0) if piece else [NOTHING]
                if meanings:
                    found = [*best[i], meanings]
            best.append(found)
        self.last = None
        return [UNCLEAR] if best[-1] is None else [self._weighed(one) for one in best[-1]]

    def _meanings(self, words: Words, within: bool) -> list[Meaning]:
        """Everything that a clause can mean; nothing, if it cannot be understood."""
        text = " ".join(words)
        for _ in range(3):
            if meanings := self._plain_meanings(tuple(text.split()), text, within):
                return meanings
            shorter = text
            for pattern in (_LEADING, _TRAILING, SOURCES_BEFORE, SOURCES_AFTER):
                shorter = pattern.sub("", shorter)
            if shorter == text:
                break
            text = shorter.strip(" ,:")
        return []

    def _plain_meanings(self, words: Words, text: str, within: bool) -> list[Meaning]:
        if not words:
            return [NOTHING]
        if frames.is_salad(words):
            return []
        named = self._named(words)
        takes_up = named <= self.question_words
        if takes_up and ABSTAINING.match(text):
            return [UNKNOWN]
        if not named:
            return self._nameless(words, text)
        if takes_up and ASKING.match(text):
            return [NOTHING]
        if outcome := figures.read(self.question, words):
            return [Said(outcome, bare=outcome == "answer" and len(words) < 3)]
        shape = frames.shape(words, self.lexicon)
        if shape is None or shape.negations > 1:
            return []
        bare = [] if words[0] in PERSONS else self._bare(shape)
        return [*self._statements(shape, within), *bare]

    def _nameless(self, words: Words, text: str) -> list[Said]:
        if self.question.kind == "small_talk":
            if "," in words:  # so that it is cut there
                return []
            text = _LEADING.sub("", text)
            for key, pattern in TALK.items():
                if match := pattern.match(text):
                    rest = text[match.end() :].replace(",", " ").split()
                    fits = set(rest) <= TALK_WORDS and len(rest) < MOST_TALK
                    return [Said("talk", talk=key)] if fits else []
            if set(words) <= TALK_WORDS:
                return [NOTHING]
        scraps = set(words) <= frames.scraps() and text not in THAT_IS_IT
        return [] if scraps or DOUBTS & set(words) or SIGNS & set(words) else [NOTHING]

    def _statements(self, shape: frames.Shape, within: bool) -> Iterator[Statement]:
        for frame, contents, way in self._resolved(shape):
            readings = self.reader.table.get(frame, ())
            if not readings and "do" in frame:
                frame = tuple(word for word in frame if word != "do")
                readings = self.reader.table.get(frame, ())
            if not readings and ":" in frame:
                frame = tuple("is" if word == ":" else word for word in frame)
                readings = self.reader.table.get(frame, ())
            if not readings and within:
                readings = self.reader.table.get((frames.PRONOUN, *frame), ())
            for name, subject, value in readings:
                who = None if subject is None else contents[subject]
                yield Statement(who, name, contents[value], bool(shape.negations), way)

    def _resolved(self, shape: frames.Shape) -> Iterator[tuple]:
        """The frame itself, and with "the friend of Mira" as the one who that is."""
        frame, contents = shape.frame, shape.contents
        yield frame, contents, ()
        for i in range(len(frame) - 2):
            if frame[i] not in ("friend", "owner") or frame[i + 1] != "of":
                continue
            at = sum(word.isupper() and word != frames.PRONOUN for word in frame[:i])
            if not frame[i + 2].isupper() or frame[i + 2] == frames.PRONOUN:
                continue
            bridge = (contents[at], frame[i])
            person = self._value(*bridge)
            if person is None:
                continue
            rest = frame[i + 3 :]
            names = (person, *contents[at + 1 :])
            way = ((*bridge, person),)
            if rest[:1] == ("PERSON",) and names[1:2] == (person,):  # "the friend of Mira, Tovo,"
                rest, names = rest[1:], (person, *names[2:])
            yield (*frame[:i], "PERSON", *rest), (*contents[:at], *names), way

    def _bare(self, shape: frames.Shape) -> list[Bare | Topic]:
        if not self.asked or len(shape.contents) != 1:
            return []
        value, kind = shape.contents[0], RELATIONS[self.asked[1]].value.upper()
        frame = tuple("is" if word == ":" else word for word in shape.frame)
        if kind not in frame:
            asked_of = {subject for subject, *_ in self.question.hops}
            alone = len(frame) == 1 and not shape.negations
            return [Topic(value)] if alone and value in asked_of else []
        return [Bare(value, bool(shape.negations))] if frame in self.reader.bare else []

    def _weighed(self, meanings: list[Meaning]) -> Said:
        """What a clause says, in the reading that makes it true if there is one."""
        order = ("answer", "true", "unknown", "talk", "nothing", "unclear", "false")
        best = min(map(self._weigh, meanings), key=lambda said: order.index(said.kind))
        for subject, name, value in best.facts:
            self.spoken_of = [subject, value] if name in ("friend", "owner") else [subject]
            self.last = (subject, name)
        return best

    def _weigh(self, meaning: Meaning) -> Said:
        match meaning:
            case Topic(name):
                self.spoken_of = [name]
                return NOTHING
            case Bare(value, negated):
                return self._weigh_bare(value, negated)
            case Statement(subject, name, value, negated, way):
                subjects = self.spoken_of if subject is None else [subject]
                said = [self._truth((one, name, value), negated, way) for one in subjects]
                return next((one for one in said if one.kind != "false"), FALSE)
        return meaning

    def _weigh_bare(self, value: str, negated: bool) -> Said:
        subject, name = self.asked
        if self.last and RELATIONS[self.last[1]].value == RELATIONS[name].value:
            return self._truth((*self.last, value), negated, ())  # "... and a goat"
        right = value == self.question.answer
        if negated:
            return FALSE if right or not self.question.answer else TRUE
        return Said("answer", ((subject, name, value),), bare=True) if right else FALSE

    def _truth(self, fact: Fact, negated: bool, way: tuple[Fact, ...]) -> Said:
        known = self._value(*fact[:2])
        if negated:
            return FALSE if known in (None, fact[2]) else TRUE
        if known != fact[2]:
            return FALSE
        return Said("answer" if fact[:2] == self.asked else "true", (*way, fact))

    def _value(self, subject: str, name: str) -> str | None:
        """What is known, first from the prompt and then from the world."""
        facts, pair = self.reader.facts, (subject, name)
        return self.known.get(pair) or facts.true.get(pair) or facts.library.get(pair)
