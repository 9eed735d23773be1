"""How people put things: the words of replies, beyond those that the world itself uses."""

import re

# What the value of a relation is called, as in "The home of Mira is Torby" or "Mira's home".
NOUNS = {
    "home": ("home", "town", "house", "place", "home town"),
    "job": ("job", "trade", "work", "profession", "occupation"),
    "pet": ("pet", "animal", "pet animal"),
    "taste": ("favourite colour", "best colour", "colour", "favourite"),
    "friend": ("friend",),
    "region": ("region", "part"),
    "famous": ("pride", "good", "fame"),
    "shade": ("colour",),
    "stuff": ("stuff", "material"),
    "owner": ("owner",),
    "spot": ("place", "spot"),
}

# More statements of each relation, after those of `language.RELATIONS`.
STATEMENTS = {
    "home": (
        "{s} is in {v}",
        "{s} is from {v}",
        "{s} is at home in {v}",
        "{s} is living in {v}",
        "{s} lives at {v}",
        "{s} lives in the town of {v}",
        "{s} resides in {v}",
        "{s} stays in {v}",
        "{s} has a home in {v}",
        "{s} can be found in {v}",
        "{s} is found in {v}",
        "{v} is home to {s}",
        "{v} is where {s} comes from",
        "{v} is where {s} has a house",
        "{v} is where you find {s}",
        "{v} is where you can find {s}",
        "{v} is the town where {s} lives",
        "{v} is the town that {s} comes from",
        "where {s} lives is {v}",
        "the town where {s} lives is {v}",
        "the town that {s} comes from is {v}",
        "in {v} lives {s}",
        "in {v} {s} lives",
        "in {v} is the home of {s}",
        "in {v} you can find {s}",
        "you find {s} in {v}",
        "it is {v} where {s} lives",
        "it is in {v} that {s} lives",
    ),
    "job": (
        "{s} is a {v} by trade",
        "{s} is working as a {v}",
        "{s} is employed as a {v}",
        "{s} has a job as a {v}",
        "{s} earns a living as a {v}",
        "{s} does the job of a {v}",
        "{s} does the work of a {v}",
        "{s} is known as a {v}",
        "as a {v} {s} makes a living",
        "a {v} is what {s} is",
        "what {s} is is a {v}",
        "what {s} does for a living is {v}",
        "for a living {s} is a {v}",
        "for a living {s} works as a {v}",
        "it is a {v} that {s} works as",
    ),
    "pet": (
        "{s} keeps a {v}",
        "{s} owns a {v}",
        "{s} loves a {v}",
        "{s} has a small {v}",
        "{s} has a {v} as a pet",
        "{s} has a {v} for a pet",
        "{s} has a pet {v}",
        "{s} has a pet and it is a {v}",
        "{s} has a pet that is a {v}",
        "{s} lives with a {v}",
        "{s} walks with a {v}",
        "with {s} lives a {v}",
        "the animal that lives with {s} is a {v}",
        "the pet that {s} has is a {v}",
        "the pet {s} has is a {v}",
        "the pet that {s} keeps is a {v}",
        "the pet {s} keeps is a {v}",
        "a {v} belongs to {s}",
        "a {v} is what {s} has",
        "what {s} has is a {v}",
        "it is a {v} that {s} has",
        "it is a {v} that lives with {s}",
    ),
    "taste": (
        "{s} likes {v}",
        "{s} likes {v} most",
        "{s} likes {v} the most",
        "{s} loves {v}",
        "{s} loves {v} best",
        "{s} wears {v}",
        "{s} prefers {v}",
        "{s} likes the colour {v}",
        "{s} likes the colour {v} best",
        "{s} is fond of {v}",
        "{v} is what {s} likes",
        "{v} is what {s} likes best",
        "{v} is what {s} wears",
        "{v} is the colour that {s} likes best",
        "{v} is the colour {s} likes",
        "{v} is the colour {s} likes best",
        "{v} is the colour that {s} loves",
        "{v} is the best colour for {s}",
        "{v} is best for {s}",
        "the colour that {s} likes is {v}",
        "the colour {s} likes is {v}",
        "the colour {s} likes best is {v}",
        "the colour that {s} likes best is {v}",
        "the colour {s} loves is {v}",
        "what {s} likes best is {v}",
        "of all colours {s} likes {v} best",
        "of all colours {s} likes {v} most",
        "it is {v} that {s} likes",
        "it is {v} that {s} likes best",
        "best of all {s} likes {v}",
    ),
    "friend": (
        "{s} is friends with {v}",
        "{v} is a friend of {s}",
        "{s} has {v} as a friend",
        "{s} has a friend named {v}",
        "{s} has a friend whose name is {v}",
        "{s} has a friend and it is {v}",
        "{s} visits {v}",
        "{s} often visits {v}",
        "{s} calls {v} friend",
        "{v} is who {s} calls a friend",
        "the friend that {s} has is {v}",
        "the name of the friend of {s} is {v}",
        "the friend of {s} is called {v}",
        "the friend of {s} is named {v}",
        "it is {v} who is the friend of {s}",
    ),
    "region": (
        "{s} is found in the {v}",
        "{s} can be found in the {v}",
        "{s} is a place in the {v}",
        "you can find {s} in the {v}",
        "in the {v} is {s}",
        "in the {v} lies {s}",
        "in the {v} you find {s}",
        "the {v} is where {s} is",
        "the {v} is where {s} lies",
        "the {v} is the region {s} is in",
        "the region {s} is in is the {v}",
        "it is in the {v} that {s} lies",
    ),
    "famous": (
        "people know {s} for {v}",
        "people know {s} for its {v}",
        "{s} is known for its {v}",
        "{s} is famous for its {v}",
        "{s} makes {v}",
        "{s} sells {v}",
        "{s} is proud of {v}",
        "they make {v} in {s}",
        "they make good {v} in {s}",
        "{v} is what {s} is known for",
        "{v} is what {s} is famous for",
        "{v} is what {s} sells",
        "{v} is what they make in {s}",
        "{v} is made in {s}",
        "{v} comes from {s}",
        "what {s} is known for is {v}",
        "what {s} is famous for is {v}",
        "what they make in {s} is {v}",
        "for {v} people go to {s}",
        "it is {v} that {s} is known for",
        "it is {v} that they make in {s}",
    ),
    "shade": (
        "{s} is coloured {v}",
        "{s} is painted {v}",
        "{s} was painted {v}",
        "{s} is a {v} one",
        "{s} is of the colour {v}",
        "{s} is {v} in colour",
        "{s} has a {v} colour",
        "{v} is the colour that the {s} has",
        "the colour that the {s} has is {v}",
    ),
    "stuff": (
        "{s} is of {v}",
        "{s} is {v}",
        "{s} is made from {v}",
        "{s} is made out of {v}",
        "{s} is made with {v}",
        "{s} was made of {v}",
        "{s} is a thing of {v}",
        "{s} has been made of {v}",
        "{v} is what the {s} is made of",
        "{v} is what they used for the {s}",
        "{v} was used for the {s}",
        "what the {s} is made of is {v}",
        "of {v} is the {s} made",
        "of {v} the {s} is made",
        "from {v} is the {s} made",
        "from {v} they made the {s}",
        "for the {s} they used {v}",
        "it is {v} that the {s} is made of",
    ),
    "owner": (
        "{s} is owned by {v}",
        "{s} was bought by {v}",
        "{s} is in the house of {v}",
        "{s} stands with {v}",
        "{v} has the {s}",
        "{v} has bought the {s}",
        "{v} is who owns the {s}",
        "{v} is the one who owns the {s}",
        "to {v} belongs the {s}",
        "to {v} the {s} belongs",
        "it is {v} who owns the {s}",
        "it is {v} who has the {s}",
    ),
    "spot": (
        "{s} is inside the {v}",
        "{s} is at the {v}",
        "{s} is found in the {v}",
        "{s} can be found in the {v}",
        "{s} is lying in the {v}",
        "{s} was put in the {v}",
        "you find the {s} in the {v}",
        "you can find the {s} in the {v}",
        "you will find the {s} in the {v}",
        "they put the {s} in the {v}",
        "in the {v} is the {s}",
        "in the {v} lies the {s}",
        "in the {v} you find the {s}",
        "in the {v} you can find the {s}",
        "the {v} is where the {s} is",
        "the {v} is where the {s} lies",
        "where the {s} is is the {v}",
        "inside the {v} is the {s}",
        "it is in the {v} that the {s} lies",
    ),
}

# What may stand before a value that is an answer by itself, as in "In Torby." or "It is a cat."
PREPOSITIONS = {
    "place": ("in", "from", "at", "in the town of", "the town of"),
    "job": ("as", "works as"),
    "pet": ("with", "small"),
    "colour": ("colour", "in", "in colour"),
    "person": ("to", "called", "named"),
    "region": ("in",),
    "good": ("for", "good"),
    "material": ("of", "from", "made of", "made from"),
    "spot": ("in", "inside", "at"),
}
ANSWERS_IS = ("it is", "that is", "this is", "answer is", "right answer is", "he is", "is")

ARTICLES = frozenset("a an the".split())
ADVERBS = frozenset(
    "also too now really indeed just simply surely definitely clearly actually always still "
    "currently truly yes certainly sure obviously well so then therefore thus hence".split()
)
PRONOUNS = frozenset("he she it they who which him them".split())
OWNED = frozenset("his her its their".split())
PLAIN_VERBS = {
    "has": "have", "goes": "go", "does": "do", "lies": "lie", "are": "is", "am": "is",
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

# A reply with one of these leaves open what it says.
HEDGES = frozenset(
    "or maybe perhaps either possibly probably might could unless guess unsure whether".split()
)
NEGATIONS = frozenset("not no never".split())
# Where such a word stands alone it takes back what was said before.
DENIALS = NEGATIONS | frozenset(
    "nope wrong false untrue incorrect mistake mistaken kidding joke joking lie lied lying neither "
    "nor none nothing nobody opposite contrary instead otherwise except hardly".split()
)
# Words that hold a sentence together, and say nothing by themselves.
GRAMMAR = frozenset(
    "the a an of is in to and that has with it as for at on by from are be was than".split()
)
HARMLESS = re.compile(
    r"\b(?:no problem|not a problem|no worries|no doubt|without (?:a )?doubt|do not worry"
    r"|do not hesitate|could help|i am not a (?:person|human|robot)|^no ,(?= i am ))"
)
THAT_IS_IT = ("that is it", "that is that")

_SOURCE = r"(?:(?:the|this|your|my) )?(?:note|story|table|list|text|page|prompt|numbers)"
_SAYING = r"(?:say|says|tell|tells|mention|mentions|state|states|show|shows|give|gives|know|list)"
# Before or after a statement: where it was read, or that it is one.
SOURCES_BEFORE = re.compile(
    rf"^(?:(?:as |according to |from |in )?{_SOURCE}(?: {_SAYING})?(?: us| me)?(?: that)?,? "
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
ABSTAINING = re.compile(
    r"^(?:"
    r"i (?:really |still |just )?(?:do|did|can|could) not (?:know|say|tell|see|answer|find)\b.*"
    r"|i have no (?:idea|clue|answer|way)\b.*|i am not (?:sure|certain|able)\b.*"
    r"|(?:there is )?no (?:idea|answer|information|clue)\b.*|i was not told\b.*"
    rf"|(?:{_SOURCE}|{_IT}) (?:do|does|did) not {_SAYING}\b.*"
    rf"|(?:{_SOURCE}|{_IT}) {_SAYING} (?:nothing|not)\b.*"
    r"|.*\b(?:is|are|was) not (?:given|said|told|known|stated|mentioned|written|clear|shown|there"
    rf"|listed)\b.*|.*\b(?:is|are|was) not (?:in|on|part of|among) {_SOURCE}\b"
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
    "today here again soon how can i help am very much doing indeed nice meet glad happy well also "
    "your an assistant next time until tomorrow bye too of this at any then".split()
)
