"""Names the labels of AudioSet and VGGSound that are musical instruments; by name, since indices differ between label files."""

# AudioSet: "Musical instrument" and all that its ontology has below it, with Choir and Cowbell, which are elsewhere in it: 80 of 527.
AUDIOSET = (
    *("Choir", "Cowbell", "Musical instrument"),
    *("Plucked string instrument", "Guitar", "Electric guitar", "Bass guitar", "Acoustic guitar", "Steel guitar, slide guitar"),
    *("Tapping (guitar technique)", "Strum", "Banjo", "Sitar", "Mandolin", "Zither", "Ukulele"),
    *("Keyboard (musical)", "Piano", "Electric piano", "Organ", "Electronic organ", "Hammond organ", "Synthesizer", "Sampler"),
    *("Harpsichord", "Percussion", "Drum kit", "Drum machine", "Drum", "Snare drum", "Rimshot", "Drum roll", "Bass drum", "Timpani"),
    *("Tabla", "Cymbal", "Hi-hat", "Wood block", "Tambourine", "Rattle (instrument)", "Maraca", "Gong", "Tubular bells"),
    *("Mallet percussion", "Marimba, xylophone", "Glockenspiel", "Vibraphone", "Steelpan", "Orchestra"),
    *("Brass instrument", "French horn", "Trumpet", "Trombone"),
    *("Bowed string instrument", "String section", "Violin, fiddle", "Pizzicato", "Cello", "Double bass"),
    *("Wind instrument, woodwind instrument", "Flute", "Saxophone", "Clarinet", "Harp"),
    *("Bell", "Church bell", "Jingle bell", "Bicycle bell", "Tuning fork", "Chime", "Wind chime", "Change ringing (campanology)"),
    *("Harmonica", "Accordion", "Bagpipes", "Didgeridoo", "Shofar", "Theremin", "Singing bowl", "Scratching (performance technique)"),
)

# VGGSound: every class "playing X" where X is no game. Of the 309, 64 begin so; 8 are games (badminton, darts, hockey, lacrosse, squash,
# table tennis, tennis, volleyball) and 56 remain. "orchestra", "tapping guitar", "singing bowl" and "disc scratching" don't say "playing".
VGGSOUND = tuple(
    f"playing {name}"
    for name in (
        *("accordion", "acoustic guitar", "bagpipes", "banjo", "bass drum", "bass guitar", "bassoon", "bongo", "bugle"),
        *("castanets", "cello", "clarinet", "congas", "cornet", "cymbal", "didgeridoo", "djembe", "double bass", "drum kit"),
        *(
            "electric guitar",
            "electronic organ",
            "erhu",
            "flute",
            "french horn",
            "glockenspiel",
            "gong",
            "guiro",
            "hammond organ",
            "harmonica",
            "harp",
        ),
        *("harpsichord", "mandolin", "marimba, xylophone", "oboe", "piano", "saxophone", "shofar", "sitar", "snare drum"),
        *("steel guitar, slide guitar", "steelpan", "synthesizer", "tabla", "tambourine", "theremin", "timbales", "timpani", "trombone"),
        *("trumpet", "tuning fork", "tympani", "ukulele", "vibraphone", "violin, fiddle", "washboard", "zither"),
    )
)

SAME = {"playing tympani": "playing timpani"}  # VGGSound has the one instrument under two spellings: 55 classes are left
