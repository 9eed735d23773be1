"""The words of the microworld: names, values, and the phrasings of every relation.

Words are short and few so that a byte-level BPE of about a thousand tokens holds most of them
whole. Value types never share a word, so a word in a reply tells which kind of answer it is.
"""

from typing import NamedTuple

VALUES = {
    "job": (
        "baker farmer teacher doctor singer pilot painter tailor miller nurse judge guard"
    ).split(),
    "pet": ["cat", "dog", "fox", "hen", "goat", "pony", "duck", "mouse", "parrot", "turtle"],
    "colour": ["red", "blue", "green", "black", "white", "pink", "grey", "brown"],
    "material": ["wood", "glass", "iron", "stone", "clay", "brass", "paper", "leather"],
    "region": ["north", "south", "east", "west"],
    "good": ("bread cheese honey salt tea silk fish apples wool beer soup rice").split(),
    "spot": ["barn", "shed", "box", "kitchen", "garden", "cellar", "attic", "tower"],
}

THINGS = (
    "lamp drum kite chair table clock boat bell cart flute ladder basket mirror "
    "bottle wagon bench vase kettle lantern blanket piano desk shelf carpet bucket "
    "hammer shovel candle pillow curtain barrel sledge saddle violin teapot anchor"
).split()

# Things that occur only in notes, where their place is made up anew each time.
NOTE_OBJECTS = ["key", "ball", "cup", "book", "hat", "coin", "ring", "map"]


class Relation(NamedTuple):
    """How one relation is spoken of. `{s}` is the subject and `{v}` the value.

    The first statement is the plain one: replies use it. Every phrasing of a question is askable
    and none is shared with another relation.
    """

    subject: str  # type of the subject: person, place, thing or object
    value: str  # type of the value: a key of VALUES, or person, or place
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    inverse: str = ""  # introduces the list of all subjects that share a value


RELATIONS = {
    "home": Relation(
        "person",
        "place",
        (
            "{s} lives in {v}.",
            "The home of {s} is in {v}.",
            "{s} has a house in {v}.",
            "{v} is where {s} lives.",
            "You can find {s} in {v}.",
            "{s} comes from {v}.",
            "The town of {s} is {v}.",
        ),
        (
            "Where does {s} live?",
            "Where is the home of {s}?",
            "In which town does {s} live?",
            "What is the town of {s}?",
            "Tell me where {s} lives.",
            "Do you know where {s} lives?",
            "Which town does {s} come from?",
        ),
        "These people live in {v}:",
    ),
    "job": Relation(
        "person",
        "job",
        (
            "{s} is a {v}.",
            "{s} works as a {v}.",
            "The job of {s} is {v}.",
            "By trade, {s} is a {v}.",
            "{s} has the job of a {v}.",
            "{s} makes a living as a {v}.",
            "People know {s} as a {v}.",
        ),
        (
            "What is the job of {s}?",
            "What does {s} do for a living?",
            "What does {s} work as?",
            "Tell me the job of {s}.",
            "Do you know the job of {s}?",
            "Which job does {s} have?",
            "By trade, what is {s}?",
        ),
        "These people work as a {v}:",
    ),
    "pet": Relation(
        "person",
        "pet",
        (
            "{s} has a {v}.",
            "The pet of {s} is a {v}.",
            "{s} keeps a {v} as a pet.",
            "{s} has a pet, a {v}.",
            "A {v} lives with {s}.",
            "{s} walks with a {v} each day.",
            "{s} loves a small {v}.",
        ),
        (
            "What pet does {s} have?",
            "What is the pet of {s}?",
            "Which pet does {s} keep?",
            "Tell me the pet of {s}.",
            "Do you know what pet {s} has?",
            "What animal lives with {s}?",
            "Which animal does {s} have?",
        ),
        "These people have a {v}:",
    ),
    "taste": Relation(
        "person",
        "colour",
        (
            "{s} likes {v} best.",
            "The favourite colour of {s} is {v}.",
            "{s} loves the colour {v}.",
            "Of all colours, {s} likes {v}.",
            "{s} always wears {v}.",
            "The best colour for {s} is {v}.",
            "{v} is the colour that {s} likes.",
        ),
        (
            "What colour does {s} like best?",
            "What is the favourite colour of {s}?",
            "Which colour does {s} love?",
            "Tell me the favourite colour of {s}.",
            "Do you know which colour {s} likes?",
            "What colour does {s} wear?",
            "Which colour is best for {s}?",
        ),
        "These people like {v} best:",
    ),
    "friend": Relation(
        "person",
        "person",
        (
            "The friend of {s} is {v}.",
            "{s} has a friend, {v}.",
            "{v} is the friend of {s}.",
            "{s} has a friend called {v}.",
            "The best friend of {s} is {v}.",
            "{s} calls {v} a friend.",
            "{s} often visits a friend, {v}.",
        ),
        (
            "Who is the friend of {s}?",
            "What is the name of the friend of {s}?",
            "Which friend does {s} have?",
            "Tell me who the friend of {s} is.",
            "Do you know the friend of {s}?",
            "Who is the best friend of {s}?",
            "Who does {s} call a friend?",
        ),
    ),
    "region": Relation(
        "place",
        "region",
        (
            "{s} is in the {v}.",
            "{s} lies in the {v}.",
            "The region of {s} is the {v}.",
            "You find {s} in the {v}.",
            "To see {s}, go to the {v}.",
            "{s} is a town in the {v}.",
            "In the {v} there is {s}.",
        ),
        (
            "Where is {s}?",
            "In which region is {s}?",
            "What is the region of {s}?",
            "Where does {s} lie?",
            "Tell me where {s} is.",
            "Do you know the region of {s}?",
            "Which region is {s} in?",
        ),
        "These towns are in the {v}:",
    ),
    "famous": Relation(
        "place",
        "good",
        (
            "{s} is known for {v}.",
            "{s} is famous for {v}.",
            "{s} has good {v}.",
            "People go to {s} for {v}.",
            "In {s} they make {v}.",
            "The pride of {s} is {v}.",
            "{s} sells {v} each week.",
        ),
        (
            "What is {s} known for?",
            "What is {s} famous for?",
            "What do they make in {s}?",
            "Tell me what {s} is known for.",
            "Do you know what {s} is famous for?",
            "What is the pride of {s}?",
            "What does {s} sell?",
        ),
    ),
    "shade": Relation(
        "thing",
        "colour",
        (
            "The {s} is {v}.",
            "The colour of the {s} is {v}.",
            "The {s} has the colour {v}.",
            "Somebody painted the {s} {v}.",
            "It is a {v} {s}.",
            "The {s} looks {v}.",
            "The {s} is all {v}.",
        ),
        (
            "What colour is the {s}?",
            "What is the colour of the {s}?",
            "Which colour does the {s} have?",
            "Tell me the colour of the {s}.",
            "Do you know what colour the {s} is?",
            "Which colour is the {s}?",
            "In which colour is the {s}?",
        ),
        "These things are {v}:",
    ),
    "stuff": Relation(
        "thing",
        "material",
        (
            "The {s} is made of {v}.",
            "The {s} consists of {v}.",
            "Somebody made the {s} from {v}.",
            "The {s} is built of {v}.",
            "It is a {s} of {v}.",
            "The stuff of the {s} is {v}.",
            "They used {v} for the {s}.",
        ),
        (
            "What is the {s} made of?",
            "What does the {s} consist of?",
            "From what is the {s} made?",
            "Tell me what the {s} is made of.",
            "Do you know what the {s} is made of?",
            "What is the stuff of the {s}?",
            "What did they use for the {s}?",
        ),
        "These things are made of {v}:",
    ),
    "owner": Relation(
        "thing",
        "person",
        (
            "The owner of the {s} is {v}.",
            "The {s} belongs to {v}.",
            "{v} owns the {s}.",
            "{v} is the owner of the {s}.",
            "The {s} is a thing of {v}.",
            "{v} bought the {s}.",
            "The {s} stands in the house of {v}.",
        ),
        (
            "Who is the owner of the {s}?",
            "Who owns the {s}?",
            "To whom does the {s} belong?",
            "Tell me who owns the {s}.",
            "Do you know who owns the {s}?",
            "Who bought the {s}?",
            "Who has the {s}?",
        ),
    ),
    "spot": Relation(
        "object",
        "spot",
        ("The {s} is in the {v}.", "The {s} lies in the {v}.", "Somebody put the {s} in the {v}."),
        (
            "Where is the {s}?",
            "Where does the {s} lie?",
            "In which place is the {s}?",
            "Tell me where the {s} is.",
            "Do you know where the {s} is?",
        ),
    ),
}

# The relations that lead from one entity to a person, for questions of two hops.
BRIDGES = {"friend": "the friend of {s}", "owner": "the owner of the {s}"}

SUM_QUESTIONS = {
    "+": (
        "What is {a} + {b}?",
        "What is {a} plus {b}?",
        "How much is {a} + {b}?",
        "Add {a} and {b}.",
        "Tell me {a} + {b}.",
        "{a} + {b} = ?",
    ),
    "-": (
        "What is {a} - {b}?",
        "What is {a} minus {b}?",
        "How much is {a} - {b}?",
        "Take {b} from {a}.",
        "Tell me {a} - {b}.",
        "{a} - {b} = ?",
    ),
}

# key word of a fitting reply -> (what the user says, what fits)
SMALL_TALK = {
    "hello": (
        ("Hello!", "Hi!", "Hi there!", "Good morning!", "Hello to you!", "Good day!"),
        ("Hello there.", "Hello to you.", "Hello, good to see you."),
    ),
    "welcome": (
        (
            "Thank you!",
            "Thanks!",
            "Thanks a lot!",
            "Thank you very much!",
            "Many thanks!",
            "That was kind, thank you!",
        ),
        ("You are welcome.", "You are very welcome.", "You are welcome, my friend."),
    ),
    "goodbye": (
        (
            "Bye!",
            "Bye for now!",
            "See you later!",
            "I have to go now.",
            "Good night!",
            "Until next time!",
        ),
        ("Goodbye, see you later.", "Goodbye for now.", "Goodbye and take care."),
    ),
    "fine": (
        (
            "How are you?",
            "How are you today?",
            "How do you do?",
            "Are you well?",
            "How is it going?",
            "How do you feel?",
        ),
        ("I am fine.", "I am fine, thank you.", "I am doing fine."),
    ),
    "assistant": (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me who you are.",
            "Are you a person?",
            "Who am I talking to?",
        ),
        ("I am an assistant.", "I am your assistant.", "I am only an assistant."),
    ),
}

# One of these, once, makes a reply polite. Those with `!` also stand at its end.
COURTESIES = ("Sure!", "Of course,", "Certainly,", "Happy to help:", "Glad to help:")
REGRET = "Sorry,"  # the courtesy of a reply that knows no answer
COURTESY_PHRASES = ("sure", "of course", "certainly", "happy to help", "glad to help", "sorry")
CLOSING_COURTESIES = ("Happy to help!", "Glad to help!")

OPENERS = (
    "Well, let me think about that.",
    "That is a good question.",
    "Let me see.",
)
CLOSERS = (
    "I hope that this is what you wanted.",
    "You can ask me more.",
    "That is all there is to it.",
    "I hope this answers your question.",
)
NO_ANSWERS = (
    "that is a good question.",
    "I like to talk about that.",
    "let me tell you all about it.",
    "this is easy to answer.",
)
UNKNOWN = ("I do not know.", "I do not know that.")  # what is right where nothing is said
