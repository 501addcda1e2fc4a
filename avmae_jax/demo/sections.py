"""Writes what the page shows of an answer."""

from urllib.parse import quote

import numpy as np

from avmae_jax.data.fbank import mel_height
from avmae_jax.demo import html
from avmae_jax.demo.answers import Answer, Pictures, Reconstruction
from avmae_jax.demo.html import escape
from avmae_jax.demo.limits import Media, clock
from avmae_jax.demo.neighbours import Neighbour, Neighbours
from avmae_jax.demo.timeline import PLAYER, ticks_of, timeline
from avmae_jax.plots.heatmap import colour_limits
from avmae_jax.plots.pixels import Layers, frame_layers, heat_scale, png, spectrogram_layers
from avmae_jax.plots.reconstructions import image_stages, spectrogram_stages

HERTZ = (200, 500, 1000, 2000, 4000)
_WAYS = {"audio": "Sound only", "image": "Picture only", "both": "Both"}
_RANGE = '<span class="av-soft">from −1 to 1; the better they fit, the higher</span>'
_SEARCHED = "The beginning of the file was compared with each clip of the index. The number is the match, as above."
_LACKS = {"audio": "The file has no sound.", "image": "The file has no picture.", "both": "The file has only one of both."}


def error(sentence: str) -> str:
    """Says why a file can't be used."""
    return f'<div class="av-error" role="alert"><strong>That didn’t work.</strong> {escape(sentence)}</div>'


def waiting(sentence: str) -> str:
    """Says what is being done."""
    return f'<div class="av-waiting" role="status"><span class="av-spinner" aria-hidden="true"></span>{escape(sentence)}</div>'


def note(sentence: str) -> str:
    """Says what is missing of an answer."""
    return f'<p class="av-note" role="status">{escape(sentence)}</p>'


def classes(answer: Answer) -> str:
    """Writes what stands beside the player: the classes, or else the match; "" if there is neither."""
    rows = answer.top()
    found = f"<h2>What it hears and sees</h2>{html.bars(rows)}" if rows else ""
    if answer.match is not None and rows:
        found += f"<p>Match of sound and picture: <strong>{answer.match:.2f}</strong> {_RANGE}</p>"
    elif answer.match is not None:
        found = f'<h2>Do sound and picture match?</h2><p class="av-big">{answer.match:.2f}</p><p>{_RANGE}</p>'
    return found


def along_time(answer: Answer) -> str:
    """Writes what stands below the player: what isn't handled, and the timeline."""
    below = timeline(answer)
    return "".join(map(note, answer.notes)) + (f"<h2>Along time</h2>{below}" if below else "")


def player(media: Media) -> str:
    """Writes a player of the file itself; nothing leaves the machine."""
    source, label = escape(f"gradio_api/file={quote(str(media.path))}"), escape(media.name)
    if media.kind == "image":
        content = f'<img id="{PLAYER}" alt="The picture {label}" src="{source}">'
    else:
        tag = media.kind
        content = f'<{tag} id="{PLAYER}" controls preload="metadata" playsinline aria-label="{label}" src="{source}"></{tag}>'
    unable = "This browser can’t play the file; what the model says of it is shown all the same."
    return f'<figure class="av-player">{content}<p class="av-unplayable" hidden>{unable}</p><figcaption>{label}</figcaption></figure>'


def three_ways(answer: Answer, ways: tuple[str, ...]) -> str:
    """Writes what the classifier says given sound only, picture only and both, beside each other; "" for a model that knows one way."""
    if len(ways) < 2:
        return ""
    columns = "".join(
        f"<div><h3>{_WAYS[way]}</h3>{html.bars(rows) if (rows := answer.top(way)[:3]) else f'<p class=av-soft>{_LACKS[way]}</p>'}</div>"
        for way in ways
    )
    return html.section("What each of them says", f'<div class="av-ways">{columns}</div>', name="ways")


def pictures(found: Pictures) -> str:
    """Writes the frame and the spectrogram, with the explanation over both behind a switch."""
    limits = colour_limits(found.heat, found.constant)
    parts, about = "", f" for {found.subject}" if found.subject else ""
    if found.image is not None:
        layers = frame_layers(found.image, found.heat.get("image"), limits.get("image", (0, 1)))
        inside = layers_of(layers, "The picture as the model sees it", about)
        parts += f'<figure class="av-frame">{inside}<figcaption>Picture</figcaption></figure>'
    if found.spectrogram is not None:
        layers = spectrogram_layers(found.spectrogram, found.heat.get("audio"), limits.get("audio", (0, 1)))
        inside = layers_of(layers, "Spectrogram of the sound, low notes at the bottom", about)
        parts += axes(inside, found.spectrogram.shape[0], found.start, found.spectrogram.shape[1] / 100, "Sound")
    switch = ""
    if found.heat:
        words = f"Show which parts speak{about}" if about else "Show which parts match"
        switch = f'<label class="av-switch"><input type="checkbox" class="av-heat-on"> {escape(words)}</label>{_scale(limits, found)}'
    said = f"say {found.subject} most clearly" if found.subject else "match best"
    place = f"The model takes {found.seconds:.1f} s at a time; these, from {clock(found.start)} on, {said}." if found.seconds else ""
    content = f'<div class="av-explained">{switch}<div class="av-pictures">{parts}</div></div>'
    return html.section("What it looked at and listened to", content, note=place, name="pictures")


def axes(inside: str, mel_bins: int, start: float, seconds: float, caption: str) -> str:
    """Puts an axis in Hz and one in seconds around a spectrogram."""
    hertz = "".join(
        f'<span style="bottom:{100 * height_of(value, mel_bins):.2f}%">{value if value < 1000 else f"{value // 1000}k"}</span>'
        for value in HERTZ
    )
    times = "".join(
        f'<span style="left:{100 * (moment - start) / seconds:.2f}%">{moment:g}</span>' for moment in ticks_of(start, start + seconds)
    )
    return (
        f'<figure class="av-spectrogram"><div class="av-hertz" aria-hidden="true">{hertz}</div><div class="av-inside">{inside}</div>'
        f'<div class="av-seconds" aria-hidden="true">{times}</div>'
        f"<figcaption>{escape(caption)}: frequency in Hz, time in seconds</figcaption></figure>"
    )


def height_of(hertz: float, mel_bins: int) -> float:
    """Returns how high a frequency is in a spectrogram, as a share of its height."""
    return float(mel_height(hertz, mel_bins) / mel_bins)


def reconstruction(found: Reconstruction) -> str:
    """Writes what a pretraining model fills in, seen and heard."""
    parts = ""
    names = ("Original", "What the model is given", "What it makes of it")
    if "image" in found.panels:
        stages = [png((stage[0] * 255).round().astype(np.uint8)) for stage in image_stages(found.panels["image"])]
        shown = "".join(
            f"<figure>{html.image(stage, name)}<figcaption>{name}</figcaption></figure>" for stage, name in zip(stages, names, strict=True)
        )
        parts += f'<h3>Picture</h3><div class="av-stages">{shown}</div>'
    if "audio" in found.panels:
        panel = found.panels["audio"]
        stages = [png((stage[0][::-1] * 255).round().astype(np.uint8)) for stage in spectrogram_stages(panel)]
        shown = "".join(
            axes(html.image(stage, f"Spectrogram: {name}"), panel.original.shape[1], 0.0, found.seconds, name)
            for stage, name in zip(stages, names, strict=True)
        )
        parts += f"<h3>Sound</h3>{shown}"
    if found.sounds is not None:
        stages = (("Original", found.sounds.original), ("Given", found.sounds.masked), ("Reconstructed", found.sounds.reconstructed))
        players = "".join(f"<p>{name} {html.sound(wave, f'{name} sound, made from its spectrogram')}</p>" for name, wave in stages)
        parts += f'<div class="av-sounds">{players}</div>'
    shares = " and ".join(
        f"{float(np.mean(panel.hidden)):.0%} of the {'sound' if name == 'audio' else 'picture'}".replace("%", " %")
        for name, panel in sorted(found.panels.items())
    )
    note = f"From the beginning of the file {shares} were hidden (grey), and the model fills them in."
    if found.norm_pix:
        note += " It was trained on normalised patches: mean and contrast of each are taken from the original."
    return html.section("What it fills in", parts, note=note, name="reconstruction")


def neighbours(found: list[Neighbours]) -> str:
    """Writes what each side of a file has found in the index."""
    headings = {"audio": "Pictures nearest to the sound", "image": "Sounds nearest to the picture"}
    parts = "".join(
        f'<h3>{headings[side.queried]}</h3><ol class="av-cards">{"".join(_card(one, side.queried) for one in side.found)}</ol>'
        for side in found
    )
    return html.section("The nearest clips", parts, note=_SEARCHED, name="nearest") if found else ""


def _card(found: Neighbour, queried: str) -> str:
    inside, label = "", found.classes or found.id
    if found.clip is not None and queried == "audio" and found.clip.frames:
        inside = f'<img alt="{escape(label)}" src="{html.data_uri(found.clip.frames[found.clip.middle], "image/jpeg")}">'
    if found.clip is not None and queried == "image" and len(found.clip.waveform):
        inside = html.sound(found.clip.waveform / 32_768, label)
    classes = f"<strong>{escape(found.classes)}</strong> " if found.classes else ""
    return f'<li>{inside}<p>{classes}<span class="av-soft">{found.score:.2f} {escape(found.id)}</span></p></li>'


def layers_of(layers: Layers, alt: str, about: str) -> str:
    """Writes an image with its heat map, of which the switch `av-heat-on` shows one."""
    shown = html.image(png(layers.plain), alt, classes="av-plain")
    if layers.painted is not None:
        shown += html.image(png(layers.painted), f"{alt}, in grey, with the parts that speak{about} in colours", classes="av-heat")
    return shown


def _scale(limits: dict[str, tuple[float, float]], found: Pictures) -> str:
    """Writes what the colours of the heat map mean."""
    if found.constant is None:
        words = ("fits the other one least", "fits it best")
    else:
        words = (f"speaks against {found.subject}", f"speaks for {found.subject}")
    colours = f"background: linear-gradient(90deg, {', '.join(heat_scale())})"
    gradient = f'<span class="av-gradient" aria-hidden="true" style="{colours}"></span>'
    return f'<p class="av-scale"><span>{escape(words[0])}</span>{gradient}<span>{escape(words[1])}</span></p>'
