"""What the demo model knows: its subjects with their other names, backgrounds and styles.

Everything that decides which prompts work is in this one file, so that the shipped NOTICE, the
judge and the training data can never disagree about it.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (214, 48, 49),
    "yellow": (255, 221, 89),
    "green": (39, 174, 96),
    "blue": (41, 98, 217),
    "purple": (142, 68, 173),
}
"""Background words and their colours; the first one is what a prompt without a background means."""

DEFAULT_BACKGROUND = "white"


@dataclass(frozen=True)
class Subject:
    """One thing that can be drawn."""

    name: str
    """The word used in captions; unique."""
    emoji: str
    """CLDR label of the emoji that shows it."""
    synonyms: tuple[str, ...] = ()
    """Other words that must draw the same thing."""
    weight: float = 1.0
    """Share of training pictures; plain shapes need less than faces."""


def _row(line: str) -> Subject:
    """Read one "name = emoji label / synonym, synonym" line."""
    head, _, tail = line.partition("/")
    name, _, emoji = (part.strip() for part in head.partition("="))
    synonyms = tuple(word.strip() for word in tail.split(",") if word.strip())
    return Subject(name, emoji or name, synonyms)


_OBJECTS = """
cat = cat face / kitty, kitten, cat head
dog = dog face / puppy, doggy
fox / fox face
panda / panda bear
frog / toad
pig = pig face / piglet
lion / lion head
bear / brown bear
rabbit = rabbit face / bunny
monkey = monkey face / ape
penguin
owl
chick = front-facing baby chick / baby chicken, baby bird
fish = tropical fish / colourful fish
whale = spouting whale
octopus
crab
butterfly
ladybug = lady beetle / ladybird
bee = honeybee / bumblebee
snail
turtle / tortoise
apple = red apple / red apple fruit
green apple
banana / bananas
tangerine / mandarin, orange fruit
lemon
pear
watermelon / slice of watermelon
grapes / bunch of grapes
strawberry
cherries / cherry
pineapple
peach
tomato
carrot
avocado
eggplant / aubergine
mushroom / toadstool
hamburger / burger, cheeseburger
pizza / slice of pizza
donut = doughnut / sweet ring cake
cookie / biscuit
ice cream = soft ice cream / ice cream cone
cake = birthday cake / party cake
cheese = cheese wedge
egg
coffee = hot beverage / cup of coffee, cup of tea, hot drink
beer = beer mug / mug of beer
rose / red rose
tulip
sunflower
flower = blossom / yellow flower
cactus
tree = deciduous tree / green tree, leafy tree
pine tree = evergreen tree / fir tree, conifer
palm tree / palm
clover = four leaf clover
car = automobile / red car, motor car
bus
bicycle / bike
airplane / plane, aeroplane, jet
rocket / spaceship
sailboat / boat, sailing boat
house / home
tent = camping
sun
moon = crescent moon
star / yellow star
cloud
rainbow
snowman = snowman without snow
fire / flame
water drop = droplet / drop of water
lightning = high voltage / lightning bolt
umbrella / purple umbrella
balloon / red balloon
gift = wrapped gift / present, gift box
soccer ball / football
basketball
guitar
drum
bell / golden bell
key
padlock = locked / lock
light bulb / lamp, lightbulb
candle
book = closed book / red book
pencil
scissors
hammer
alarm clock / clock
crown / golden crown
top hat
sunglasses
t-shirt / shirt, blue shirt
camera
trophy / golden cup
magnet
anchor
diamond = gem stone / gem, jewel
skull
ghost
robot / robot face
pumpkin = jack-o-lantern / halloween pumpkin
smiley = grinning face with big eyes / smiling face, happy face
envelope / letter
"""

_SHAPE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")


def _shapes() -> list[Subject]:
    """Hearts, circles and squares in six colours: they teach that colour words bind to shapes."""
    rows = []
    for colour in _SHAPE_COLOURS:
        extra = ("heart", "love heart") if colour == "red" else ()
        rows.append(Subject(f"{colour} heart", f"{colour} heart", extra, 0.4))
        rows.append(Subject(f"{colour} circle", f"{colour} circle", (f"{colour} ball",), 0.4))
        rows.append(Subject(f"{colour} square", f"{colour} square", (f"{colour} block",), 0.4))
    return rows


SUBJECTS: tuple[Subject, ...] = (
    *(_row(line) for line in _OBJECTS.strip().splitlines()),
    *_shapes(),
)


ONE_SIDED = {"alarm clock", "moon", "scissors", "drum", "guitar"}
"""Subjects that training never shows mirrored."""


@dataclass(frozen=True)
class Style:
    """One artist's emoji set."""

    name: str
    package: str
    version: str
    licence: str
    credit: str


STYLES: tuple[Style, ...] = (
    Style("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", "Google, Noto Emoji"),
    Style("twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter and contributors"),
)
"""Picture sets; the first one is what a prompt without a style word means."""


FLAT = Style("flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Microsoft, Fluent Emoji")
"""The set that the base never sees: the style LoRA learns it, the decoder is polished on it."""

CLASSIC = Style("classic", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google, first Noto")
"""More pictures for the decoder; this package names its pictures as the newer Noto does."""


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for; None means that the prompt does not say."""

    subject: str | None = None
    background: str | None = None
    style: str | None = None


EMPTY_WISH = Wish()
"""The unconditional prompt."""
