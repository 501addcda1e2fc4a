// Keeps a player and the timeline below it in step: <av-timeline> is written by timeline.py.
class AvTimeline extends HTMLElement {
  connectedCallback() {
    this.rows = this.querySelector(".av-rows");
    this.cursor = this.querySelector(".av-cursor");
    this.end = Number(this.dataset.end);
    this.times = JSON.parse(this.dataset.times);
    this.tracks = [...this.querySelectorAll(".av-row")].map((row) => ({
      name: row.dataset.name,
      form: row.dataset.form,
      values: JSON.parse(row.dataset.values),
      shown: row.querySelector(".av-value"),
    }));
    this.player = document.getElementById(this.dataset.player);
    this.follow = () => this.show(this.player.currentTime);
    this.player?.addEventListener("timeupdate", this.follow);
    this.player?.addEventListener("seeking", this.follow);
    this.player?.addEventListener("play", () => this.animate());
    this.rows.addEventListener("pointerdown", (event) => this.drag(event));
    this.rows.addEventListener("pointermove", (event) => event.buttons && this.drag(event));
    this.rows.addEventListener("keydown", (event) => this.key(event));
    this.show(0);
  }

  disconnectedCallback() {
    this.player?.removeEventListener("timeupdate", this.follow);
    this.player?.removeEventListener("seeking", this.follow);
  }

  animate() {
    if (!this.isConnected || this.player.paused) return;
    this.follow();
    requestAnimationFrame(() => this.animate());
  }

  drag(event) {
    const drawing = this.querySelector("svg").getBoundingClientRect();
    this.seek(((event.clientX - drawing.left) / drawing.width) * this.end);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    const ends = { Home: 0, End: this.end };
    if (event.key === " " && this.player?.play) this.player.paused ? this.player.play() : this.player.pause();
    else if (event.key in steps) this.seek(this.second + steps[event.key]);
    else if (event.key in ends) this.seek(ends[event.key]);
    else return;
    event.preventDefault();
  }

  seek(second) {
    const wanted = Math.min(Math.max(second, 0), this.end);
    if (this.player && "currentTime" in this.player) this.player.currentTime = wanted;
    this.show(wanted);
  }

  show(second) {
    this.second = Math.min(second, this.end);
    const near = this.nearest(this.second);
    const drawing = this.querySelector("svg");
    const left = drawing.getBoundingClientRect().left - this.rows.getBoundingClientRect().left;
    this.cursor.style.left = `${left + (this.second / this.end) * drawing.getBoundingClientRect().width}px`;
    const words = this.tracks.map((track) => {
      const value = track.values[near];
      const text = value === null ? "–" : track.form === "percent" ? percent(value) : value.toFixed(2);
      track.shown.textContent = text;
      return `${track.name} ${text}`;
    });
    this.rows.setAttribute("aria-valuenow", this.second.toFixed(1));
    this.rows.setAttribute("aria-valuetext", `${clock(this.second)}: ${words.join(", ")}`);
  }

  nearest(second) {
    let best = 0;
    this.times.forEach((time, place) => {
      if (Math.abs(time - second) < Math.abs(this.times[best] - second)) best = place;
    });
    return best;
  }
}

function percent(share) {
  if (share > 0 && share < 0.005) return "< 1 %";
  if (share >= 0.995 && share < 1) return "> 99 %";
  return `${Math.round(share * 100)} %`;
}

function clock(second) {
  const whole = Math.floor(second);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// A media element's errors don't bubble, but can be captured.
document.addEventListener(
  "error",
  (event) => {
    const figure = event.target.closest?.(".av-player");
    if (figure) figure.querySelector(".av-unplayable").hidden = false;
  },
  true,
);

customElements.define("av-timeline", AvTimeline);
