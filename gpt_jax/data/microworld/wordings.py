"""The words of replies: those that say nothing, leave open, deny, or admit not to know."""

import re

ARTICLES = frozenset("a an the".split())
ADVERBS = frozenset(
    "also too now really indeed just simply surely definitely clearly actually always still "
    "currently truly yes certainly sure obviously well so then therefore thus hence".split()
)
PERSONS = frozenset("he she they".split())
PRONOUNS = frozenset("he she it they who which him them".split())
OWNED = frozenset("his her its their".split())
PLAIN_VERBS = {
    "has": "have", "goes": "go", "does": "do", "lies": "lie", "are": "is", "am": "is", "'s": "is",
    **{
        verb + "s": verb
        for verb in (
            "live work make come keep walk love like wear call visit sell look consist belong own "
            "stand reside stay prefer earn follow start begin end equal give leave get count"
        ).split()
    },
}  # fmt: skip
SPELLINGS = {
    "color": "colour", "colors": "colours", "favorite": "favourite", "gray": "grey",
    "cannot": "can not", "dont": "do not", "doesnt": "does not", "isnt": "is not",
    "didnt": "did not", "im": "i am", "ok": "okay", "&": "and", "/": "or",
}  # fmt: skip
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
}

NEGATIONS = frozenset("not no never".split())
# A clause without names that has one of these takes back what was said, or leaves it open.
DOUBTS = NEGATIONS | frozenset(
    "nope wrong false untrue incorrect mistake mistaken kidding joke joking lie lied lying neither "
    "nor none nothing nobody opposite contrary instead otherwise except hardly or maybe perhaps "
    "either possibly probably might could unless guess unsure".split()
)
# Words that hold a sentence together, and say nothing by themselves.
GRAMMAR = frozenset(
    "the a an of is in to and that has with it as for at on by from are be was than".split()
)
# Words of questions and of lists, which by themselves say no more.
SCRAPS = frozenset(
    "which what where who whom does did do comes come after before first last next largest "
    "smallest order thing things list number".split()
)
REPEATED = frozenset("is very well bye ha".split())  # words that may stand twice
ASKS = frozenset(  # what a question begins with
    "what where which who whom whose how when why do does did is are am can could would will shall "
    "may have has tell in from by to at add take and so but any anything".split()
)
HARMLESS = re.compile(
    r"\b(?:no problem|not a problem|no worries|no doubt|without (?:a )?doubt|do not worry"
    r"|do not hesitate|could help|i am not a (?:person|human|robot)|^no ,(?= i am ))"
)
THAT_IS_IT = ("that is it", "that is that", "that is all", "that is all there is to it")

_SOURCE = r"(?:(?:the|this|your|my) )?(?:note|story|table|list|text|page|prompt|numbers)"
_SAYING = r"(?:say|says|tell|tells|mention|mentions|state|states|show|shows|give|gives|know|list)"
# Before or after a statement: where it was read, or that it is one.
SOURCES_BEFORE = re.compile(
    rf"^(?:(?:as |according to |from |in )?{_SOURCE}(?: only| just)?(?: {_SAYING})?(?: us| me)?"
    r"(?: that)?,? "
    rf"|(?:i|we|you) (?:can )?(?:think|believe|see|know|read|say|tell you)(?: that)?,? "
    rf"|it {_SAYING}(?: that)? |i am (?:afraid|sorry)(?: that| but)?,? |(?:so|yes|here|now),? )"
)
SOURCES_AFTER = re.compile(rf" (?:in|on|from|by|according to|as) {_SOURCE}(?: {_SAYING})?$")
# What only takes up the question, or leads over to the answer.
ASKING = re.compile(
    r"^(?:you (?:asked|ask|want to know|wanted to know)|let me (?:see|think|tell you|look)|as for"
    r"|about|regarding)\b"
)
_IT = r"(?:that|this|it|the answer|answer)"
_GIVEN = "(?:given|said|told|known|stated|mentioned|written|clear|shown|there|listed)"
ABSTAINING = re.compile(
    r"^(?:"
    r"i (?:really |still |just )?(?:do|did|can|could) not (?:know|say|tell|see|answer|find)\b.*"
    r"|i have no (?:idea|clue|answer|way)\b.*|i am not (?:sure|certain|able)\b.*"
    r"|(?:there is )?no (?:idea|answer|information|clue)\b.*|i was not told\b.*"
    rf"|(?:{_SOURCE}|{_IT}) (?:do|does|did) not {_SAYING}\b.*"
    rf"|(?:{_SOURCE}|{_IT}) {_SAYING} nothing\b.*"
    rf"|.*\b(?:is|are|was) not {_GIVEN}\b.*"
    rf"|.*\b(?:is|are|was) not (?:in|on|part of|among) {_SOURCE}\b"
    rf"|no \w+ is {_GIVEN}\b.*"
    r"|nothing is (?:said|told|known|written)\b.*|(?:nobody|who) knows\b.*"
    r"|you (?:did|have) not (?:say|said|tell|told)\b.*"
    rf"|(?:{_IT} is )?(?:unknown|unclear|missing)|.*\bis unknown"
    r")$"
)

# Fitting replies to small talk, by the key word that names them, and what may follow in one.
TALK = {
    "hello": r"(?:hello|hi|hey|greetings|good (?:morning|day|evening))",
    "welcome": r"(?:(?:you are )?(?:(?:very|most|quite|always|so) )*welcome|my pleasure)",
    "goodbye": r"(?:goodbye|good bye|bye|farewell|see you|take care|good night)",
    "fine": r"(?:(?:i am |i feel |all is )?(?:(?:doing|feeling|very|quite|just) )*fine"
    r"|(?:i am|i feel|all is) (?:(?:doing|feeling|very|quite|just) )*(?:well|good|great))",
    "assistant": r"(?:i am |my name is |you are (?:talking|speaking) to |this is )?"
    r"(?:(?:an|a|your|the|only|just|helpful|little) )*assistant",
}
TALK = {key: re.compile(pattern + r"\b") for key, pattern in TALK.items()}
TALK_WORDS = frozenset(
    "there to you good see welcome my friend dear later for now and take care fine thank thanks "
    "today here again soon how can i help very much doing indeed nice meet glad happy well also "
    "your assistant next time until tomorrow bye too of this at any then".split()
)
