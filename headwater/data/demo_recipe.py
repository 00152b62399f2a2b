"""What the demo corpus says and who says it. Everything here enters the hash that names the corpus in the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

VERSION = 1
UTTERANCES = {"train": 8, "dev": 2, "test": 3}  # of each speaker


@dataclass(frozen=True)
class Voice:
    """A speaker: an eSpeak voice variant at a pitch, a pitch range (0 to 99, 50 is the variant's own) and a rate (words
    a minute)."""

    speaker: str
    gender: str
    variant: str
    pitch: int
    pitch_range: int
    rate: int


def _voices() -> tuple[Voice, ...]:
    # Each variant serves two speakers who differ in pitch and tempo alone: with 24 unlike vocal tracts, means of
    # log-mel bins would tell all apart.
    women = ("f1", "f2", "f4", "f5", "linda", "belinda")
    men = ("m1", "m2", "m3", "m4", "m7", "quincy")
    prosody = ((38, 45, 158), (60, 60, 182))
    voices: list[Voice] = []
    for gender, variants in (("F", women), ("M", men)):
        for variant in variants:
            for pitch, pitch_range, rate in prosody:
                voices.append(Voice(f"s{len(voices) + 1:02d}", gender, variant, pitch, pitch_range, rate))
    return tuple(voices)


VOICES = _voices()

# No sentence is in two splits, so that no head can win by knowing the words.
SENTENCES: dict[str, tuple[str, ...]] = {
    "train": (
        "The river runs cold and clear below the old stone bridge.",
        "She measured the azure cloth twice before cutting it.",
        "A noisy boy pointed at the boiling kettle.",
        "My father thought the garden looked better in the rain.",
        "Put the good books back on the wooden shelf, please.",
        "Thirty young singers gathered near the church yard.",
        "We usually have toast and cheese on Thursday evening.",
        "Loud thunder shook the house for an hour.",
        "The judge chose a large orange for her lunch.",
        "Five yellow boats were moving slowly through the fog.",
        "Could you pull the cart up to the barn?",
        "Nobody enjoys a rough voyage across the channel.",
        "The teacher wrote a few short words on the board.",
        "Fresh bread and honey make a fine breakfast.",
        "He heard a bird chirping early in the morning.",
        "Both brothers wore thick gloves and leather shoes.",
        "The vision of the future gave them great pleasure.",
        "Join us at the town hall after the show.",
        "A gentle breeze carried the smell of pine trees.",
        "They sat around the fire and told strange stories.",
        "Which of these keys opens the back door?",
        "The cook stirred sugar into the hot pudding.",
        "Our neighbour owns a small shop by the sea.",
        "Seven geese flew over the quiet valley at dawn.",
        "The oil lamp threw a shadow on the wall.",
        "Give the dog a bath before you go out.",
        "The pilot saw clouds above the southern hills.",
        "Many people think that the moon is made of dust.",
        "A thin line of smoke rose from the chimney.",
        "The doctor took care of the wounded soldier.",
        "I would rather walk than wait for the bus.",
        "The children laughed at the funny little puppet.",
        "Her uncle bought a cheap car in July.",
        "The royal guard stood still beside the gate.",
        "Salt water is heavier than water from a spring.",
        "He put his foot on the brake and stopped.",
        "The farmer counted every sheep in the field.",
        "This treasure was hidden under the kitchen floor.",
        "A wise man chooses his friends with care.",
        "The train to the north leaves in half an hour.",
    ),
    "dev": (
        "The tall sailor hoisted a flag on the mast.",
        "We found a leisure centre near the south beach.",
        "She took a good look at the old map.",
        "Their cousin joined a choir at the age of three.",
        "The baker shouted that the bread was burning.",
        "Heavy snow covered the path through the forest.",
        "You should change your shirt before the party.",
        "A brown mouse ran along the edge of the roof.",
        "What would happen if the earth stood still?",
        "The nurse gave him a bottle of clean water.",
    ),
    "test": (
        "The boy watched television with his younger sister.",
        "A huge ship sailed out of the harbour at noon.",
        "Nothing could spoil the joy of that bright day.",
        "The wolf stood on a rock and howled at the moon.",
        "Please choose another colour for the bathroom door.",
        "He usually reads the paper while he eats his soup.",
        "Thunder and rain came over the mountains in March.",
        "My aunt grows roses, peas and very good beans.",
        "The cat pushed the cup off the kitchen table.",
        "Where did they hide the key to the cellar?",
    ),
}

# eSpeak's mnemonics for American English, as ARPAbet. Two phones share the time of a sound that eSpeak holds as one;
# none: the mark has no sound of its own and its time goes to the phone before it.
_PHONES = """
_ SIL      _: SIL     _! SIL     ;
p P        b B        t T        t# T       t2 T       ? T        d D        d# D       k K        g G
tS CH      dZ JH      f F        v V        T TH       D DH       s S        z Z        z# Z       S SH       Z ZH
h HH       m M        n N        n- N       N NG       l L        l# L       r R        r- R       w W        j Y
@ AH       @2 AH      a# AH      V AH       @L AH+L    @5 UH      U UH       U@ UH+R    u UW       u: UW
3 ER       3: ER      E EH       e@ EH+R    a AE       aa AE      A: AA      0 AA       A@ AA+R
O AO       O: AO      O2 AO      O@ AO+R    o@ AO+R    I IH       I2 IH      I# IH      i@3 IH+R
i IY       i: IY      i@ IY+AH   aI AY      aI3 AY+ER  aI@ AY+AH  aU AW      eI EY      oU OW      OI OY
"""
_CELLS = [cell.partition(" ") for cell in re.split(r"\n|  +", _PHONES) if cell]
PHONES: dict[str, tuple[str, ...]] = {
    mnemonic: tuple(phones.split("+")) if phones else () for mnemonic, _, phones in _CELLS
}
CLASSES = ("SIL", *sorted({phone for phones in PHONES.values() for phone in phones} - {"SIL"}))
