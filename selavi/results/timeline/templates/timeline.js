// A recording in time.  `view` is the stretch on screen; everything is drawn from it, and from where the playhead is.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const PICTURES = 72, SOUND = 84, SEGMENTS = 46, AXIS = 22, LEAST_S = 2;
const INK = "#14181a", PLAIN = "#9aa39f";
const length = Math.max(data.duration_s, data.segments.at(-1)?.[1] ?? 0, 0.001);
const view = { from: 0, to: length };
const state = { at: 0, current: -1, only: null, hover: null, dragged: null, queued: false };

/** An element with attributes and children; words are text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** 1:02:03, or 2:03.4 where tenths are asked for. */
function clock(time, tenths = false) {
  const parts = tenths ? Math.round(time * 10) / 10 : Math.round(time);
  const hours = Math.floor(parts / 3600), minutes = Math.floor((parts % 3600) / 60), seconds = parts % 60;
  const padded = tenths ? seconds.toFixed(1).padStart(4, "0") : String(seconds).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${padded}` : `${minutes}:${padded}`;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const nameOf = (number) => data.clusters[data.segments[number][2]].name;

/** Number of the segment at a time, -1 outside of all. */
function segmentAt(time) {
  let low = 0, high = data.segments.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (data.segments[middle][0] <= time) low = middle;
    else high = middle - 1;
  }
  const segment = data.segments[low];
  return segment && time >= segment[0] && time <= segment[1] ? low : -1;
}

// The recording

let player = null;

function setStage() {
  const stage = find("stage");
  if (!data.media) {
    const more = data.why.startsWith("the ") || data.why.startsWith("its ") ? "" : " Label it again with --timeline-media transcode to hear it.";
    stage.append(make("p", {}, `Browsers cannot play this recording: ${data.why}.${more}`));
    find("play").disabled = true;
    return;
  }
  player = make(data.has_picture ? "video" : "audio", { controls: "", preload: "metadata", playsinline: "", "aria-label": data.path });
  player.src = data.media;
  player.addEventListener("timeupdate", () => moved(player.currentTime));
  player.addEventListener("seeked", () => moved(player.currentTime));
  for (const kind of ["play", "pause", "ended"])
    player.addEventListener(kind, () => {
      find("play").textContent = player.paused ? "Play" : "Pause";
      if (!player.paused) follow();
    });
  player.addEventListener("error", () => {
    if (stage.querySelector(".note")) return;
    stage.append(make("p", { class: "note", role: "alert" }, "The recording does not play: it was moved, or this browser does not know its codec."));
  });
  stage.append(player);
}

/** Keep the playhead smooth for as long as it plays. */
function follow() {
  if (!player || player.paused) return;
  moved(player.currentTime);
  requestAnimationFrame(follow);
}

function toggle() {
  if (!player) return;
  if (player.paused) player.play().catch(() => {});
  else player.pause();
}

/** Go to a time; `plays` also starts the recording. */
function seek(time, plays = false) {
  const at = clamp(time, 0, length);
  if (player) {
    player.currentTime = at;
    if (plays) player.play().catch(() => {});
  }
  moved(at);
}

/** The playhead is somewhere else now. */
function moved(time) {
  state.at = time;
  const span = view.to - view.from;
  if (!state.dragged && (time < view.from || time > view.to)) show(time - 0.05 * span, time + 0.95 * span);
  const number = segmentAt(time), track = find("track");
  const words = number < 0 ? clock(time, true) : `${clock(time, true)}, ${nameOf(number)}`;
  find("now").textContent = words;
  track.setAttribute("aria-valuenow", time.toFixed(1));
  track.setAttribute("aria-valuetext", words);
  if (number !== state.current) {
    for (const [which, on] of [[state.current, false], [number, true]]) {
      const button = find("list").querySelector(`[data-number="${which}"]`);
      if (button && on) button.setAttribute("aria-current", "true");
      else if (button) button.removeAttribute("aria-current");
    }
    state.current = number;
  }
  draw();
}

/** To the next or the previous segment of those that are shown, from its begin. */
function step(by) {
  const isShown = (segment) => state.only === null || segment[2] === state.only;
  const starts = data.segments.filter(isShown).map((segment) => segment[0]);
  const next = by > 0 ? starts.find((start) => start > state.at + 0.05) : starts.findLast((start) => start < state.at - 0.75);
  if (next !== undefined) seek(next);
}

// The view

function show(from, to) {
  const span = clamp(to - from, Math.min(LEAST_S, length), length);
  view.from = clamp(from, 0, length - span);
  view.to = view.from + span;
  find("in").disabled = span <= Math.min(LEAST_S, length);
  find("out").disabled = find("whole").disabled = span >= length;
  draw();
}

function zoom(factor, around = clamp(state.at, view.from, view.to)) {
  const span = (view.to - view.from) * factor, share = (around - view.from) / (view.to - view.from);
  show(around - share * span, around + (1 - share) * span);
}

// Drawing

const pictures = { sheet: null, sound: null };

function load(name) {
  const wanted = data[name];
  if (!wanted) return;
  const image = new Image();
  image.addEventListener("load", () => {
    pictures[name] = image;
    draw();
  });
  image.src = wanted.src;
}

/** Where the rows of the track lie; those without a picture or sound are left out. */
function rows() {
  const pictureRow = data.sheet ? PICTURES : 0, soundRow = data.sound ? SOUND : 0;
  return { sound: pictureRow, segments: pictureRow + soundRow, axis: pictureRow + soundRow + SEGMENTS, height: pictureRow + soundRow + SEGMENTS + AXIS };
}

function draw() {
  if (state.queued) return;
  state.queued = true;
  requestAnimationFrame(() => {
    state.queued = false;
    drawTrack();
    drawOverview();
  });
}

function prepare(canvas, height) {
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, width, height);
  return [brush, width];
}

function drawTrack() {
  const at = rows(), [brush, width] = prepare(find("canvas"), at.height);
  const scale = width / (view.to - view.from), x = (time) => (time - view.from) * scale;
  if (pictures.sheet) drawPictures(brush, width, scale, x);
  if (pictures.sound) drawSound(brush, at, x);
  drawSegments(brush, width, at, x);
  drawAxis(brush, width, at, scale, x);
  const marks = state.hover === null ? [[state.at, "#fff", 2]] : [[state.hover, "#ffffff80", 1], [state.at, "#fff", 2]];
  for (const [time, colour, thick] of marks) {
    brush.fillStyle = "#0009";
    brush.fillRect(x(time) - thick, 0, 2 * thick, at.axis);
    brush.fillStyle = colour;
    brush.fillRect(x(time) - thick / 2, 0, thick, at.axis);
  }
}

/** As many pictures as find a place side by side, each around the time at which it is shown. */
function drawPictures(brush, width, scale, x) {
  const sheet = data.sheet, apart = sheet.length_s / sheet.count;
  const every = Math.max(1, Math.ceil(sheet.width / (apart * scale)));
  const first = Math.max(0, Math.floor(view.from / apart / every) - 1) * every;
  for (let number = first; number < sheet.count; number += every) {
    const middle = Math.min(number + (every - 1) / 2, sheet.count - 1), left = x((middle + 0.5) * apart) - sheet.width / 2;
    if (left > width) break;
    const chosen = Math.floor(middle), column = chosen % sheet.across, row = Math.floor(chosen / sheet.across);
    brush.drawImage(pictures.sheet, column * sheet.width, row * sheet.height, sheet.width, sheet.height, left, 0, sheet.width, PICTURES);
  }
}

function drawSound(brush, at, x) {
  const { width: columns, height, length_s: seconds } = data.sound;
  const from = clamp(view.from / seconds, 0, 1) * columns, to = clamp(view.to / seconds, 0, 1) * columns;
  if (to <= from) return;
  const left = x((from / columns) * seconds), right = x((to / columns) * seconds);
  brush.drawImage(pictures.sound, from, 0, to - from, height, left, at.sound, right - left, SOUND);
}

function drawSegments(brush, width, at, x) {
  brush.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  brush.textBaseline = "middle";
  for (let number = Math.max(0, segmentAt(view.from)); number < data.segments.length; number++) {
    const [from, to, cluster] = data.segments[number], left = Math.max(x(from), -1), right = Math.min(x(to), width + 1);
    if (from > view.to) break;
    if (right < 0) continue;
    const isFaint = state.only !== null && state.only !== cluster;
    brush.globalAlpha = isFaint ? 0.25 : 1;
    brush.fillStyle = data.clusters[cluster].colour;
    brush.fillRect(left, at.segments, Math.max(right - left - (right - left > 3 ? 1 : 0), 0.5), SEGMENTS);
    brush.globalAlpha = 1;
    if (number === state.current) {
      brush.fillStyle = "#fff";
      brush.fillRect(left, at.segments, right - left - 1, 3);
    }
    const words = isFaint ? "" : shortened(brush, data.clusters[cluster].name, right - left - 12);
    brush.fillStyle = INK;
    brush.fillText(words, left + 6, at.segments + SEGMENTS / 2);
  }
}

/** As much of a name as fits, its number alone where it has no other; nothing where that is next to nothing. */
function shortened(brush, name, room) {
  if (room < 14) return "";
  if (brush.measureText(name).width <= room) return name;
  const [, digits] = /^cluster (\d+)$/.exec(name) ?? [];
  if (digits) return brush.measureText(digits).width <= room ? digits : "";
  let count = name.length - 1;
  while (count > 0 && brush.measureText(`${name.slice(0, count)}\u2026`).width > room) count -= 1;
  return count < 2 ? "" : `${name.slice(0, count)}\u2026`;
}

function drawAxis(brush, width, at, scale, x) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const apart = steps.find((step) => step * scale >= 72) ?? steps.at(-1);
  brush.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  brush.textBaseline = "middle";
  for (let tick = Math.ceil(view.from / apart); tick * apart <= view.to; tick++) {
    const left = x(tick * apart);
    brush.fillStyle = PLAIN;
    brush.fillRect(left, at.axis, 1, 5);
    const words = clock(tick * apart, apart < 1);
    if (left + 8 + brush.measureText(words).width < width) brush.fillText(words, left + 4, at.axis + AXIS / 2 + 1);
  }
}

function drawOverview() {
  const canvas = find("overview"), [brush, width] = prepare(canvas, 18), scale = width / length;
  for (const [from, to, cluster] of data.segments) {
    brush.globalAlpha = state.only !== null && state.only !== cluster ? 0.2 : 1;
    brush.fillStyle = data.clusters[cluster].colour;
    brush.fillRect(from * scale, 3, Math.max((to - from) * scale, 0.5), 12);
  }
  brush.globalAlpha = 1;
  brush.strokeStyle = getComputedStyle(document.documentElement).color;
  brush.lineWidth = 2;
  brush.strokeRect(view.from * scale + 1, 1, Math.max((view.to - view.from) * scale - 2, 4), 16);
  brush.fillStyle = brush.strokeStyle;
  brush.fillRect(state.at * scale - 1, 0, 2, 18);
}

// Pointer and keys

const timeOf = (event) => view.from + (event.offsetX / find("canvas").clientWidth) * (view.to - view.from);

function setTrack() {
  const track = find("track"), tip = find("tip");
  track.setAttribute("aria-valuemax", length.toFixed(1));
  track.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    state.dragged = { x: event.clientX, from: view.from, to: view.to, far: false };
    track.setPointerCapture(event.pointerId);
  });
  track.addEventListener("pointermove", (event) => {
    const time = clamp(timeOf(event), 0, length), dragged = state.dragged;
    if (dragged) {
      dragged.far ||= Math.abs(event.clientX - dragged.x) > 6;
      const by = ((event.clientX - dragged.x) / track.clientWidth) * (dragged.to - dragged.from);
      if (dragged.far) show(dragged.from - by, dragged.to - by);
    }
    const number = segmentAt(time);
    state.hover = time;
    tip.textContent = clock(time, true) + (number < 0 ? "" : `, ${nameOf(number)}, confidence ${data.segments[number][3].toFixed(2)}`);
    tip.hidden = false;
    tip.style.left = `${clamp(event.offsetX + 10, 0, Math.max(0, track.clientWidth - tip.offsetWidth))}px`;
    draw();
  });
  track.addEventListener("pointerup", (event) => {
    const dragged = state.dragged;
    state.dragged = null;
    if (dragged && !dragged.far) seek(timeOf(event), true);
  });
  track.addEventListener("pointercancel", () => (state.dragged = null));
  track.addEventListener("pointerleave", () => {
    state.hover = null;
    tip.hidden = true;
    draw();
  });
  track.addEventListener(
    "wheel",
    (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (!event.ctrlKey && !sideways) return;
      event.preventDefault();
      const span = view.to - view.from;
      if (sideways) show(view.from + (event.deltaX / track.clientWidth) * span, view.to + (event.deltaX / track.clientWidth) * span);
      else zoom(Math.exp(clamp(event.deltaY, -60, 60) / 200), timeOf(event));
    },
    { passive: false },
  );
  const overview = find("overview");
  const pan = (event) => {
    const middle = (event.offsetX / overview.clientWidth) * length, half = (view.to - view.from) / 2;
    show(middle - half, middle + half);
  };
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    pan(event);
  });
  overview.addEventListener("pointermove", (event) => event.buttons && pan(event));
}

function setKeys() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onTrack = document.activeElement === find("track"), inPlayer = document.activeElement === player && player;
    const onButton = document.activeElement?.tagName === "BUTTON" || document.activeElement?.tagName === "A";
    const acts = {
      " ": onButton || inPlayer ? null : toggle,
      ArrowLeft: inPlayer ? null : () => seek(state.at - (event.shiftKey ? 10 : 1)),
      ArrowRight: inPlayer ? null : () => seek(state.at + (event.shiftKey ? 10 : 1)),
      Home: onTrack ? () => seek(0) : null,
      End: onTrack ? () => seek(length) : null,
      n: () => step(1),
      p: () => step(-1),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  find("play").addEventListener("click", toggle);
  find("before").addEventListener("click", () => step(-1));
  find("after").addEventListener("click", () => step(1));
  find("in").addEventListener("click", () => zoom(0.5));
  find("out").addEventListener("click", () => zoom(2));
  find("whole").addEventListener("click", () => show(0, length));
}

// Lists

function swatch(colour) {
  const place = make("span", { class: "swatch", "aria-hidden": "true" });
  place.style.background = colour;
  return place;
}

function setLegend() {
  const seconds = data.clusters.map(() => 0), counts = data.clusters.map(() => 0);
  for (const [from, to, cluster] of data.segments) {
    seconds[cluster] += to - from;
    counts[cluster] += 1;
  }
  const order = [...data.clusters.keys()].sort((one, other) => seconds[other] - seconds[one]);
  for (const number of order) {
    const cluster = data.clusters[number];
    const share = `${clock(seconds[number])} in ${counts[number]}`;
    const button = make("button", { type: "button", "aria-pressed": "false" }, swatch(cluster.colour), make("bdi", {}, cluster.name), make("span", { class: "share" }, share));
    button.addEventListener("click", () => {
      state.only = state.only === number ? null : number;
      for (const each of find("legend").querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button && state.only !== null));
      fillList();
      draw();
    });
    find("legend").append(make("li", {}, button));
  }
}

function fillList() {
  const list = find("list");
  list.replaceChildren();
  let count = 0;
  data.segments.forEach(([from, to, cluster, confidence], number) => {
    if (state.only !== null && state.only !== cluster) return;
    const { name, colour } = data.clusters[cluster];
    const button = make(
      "button",
      { type: "button", "data-number": number, "aria-current": number === state.current ? "true" : null },
      swatch(colour),
      make("span", { class: "times" }, `${clock(from, true)} to ${clock(to, true)}`),
      make("bdi", {}, name),
      make("span", { class: "share", title: "confidence" }, confidence.toFixed(2)),
    );
    button.addEventListener("click", () => seek(from, true));
    list.append(make("li", {}, button));
    count += 1;
  });
  const whose = state.only === null ? "" : ` of ${data.clusters[state.only].name}`;
  find("shown").textContent = `${count} segment${count === 1 ? "" : "s"}${whose}: begin, end, cluster, mean confidence of its pieces`;
}

function start() {
  find("name").textContent = data.path;
  const clusters = `${data.clusters.length} cluster${data.clusters.length === 1 ? "" : "s"}`;
  find("lede").textContent = `${clock(length)}, ${data.segments.length} segment${data.segments.length === 1 ? "" : "s"} of ${clusters}`;
  find("list").style.setProperty("--times", `${2 * clock(length, true).length + 4}ch`);
  setStage();
  setLegend();
  fillList();
  setTrack();
  setKeys();
  for (const fault of data.faults) find("stage").after(make("p", { class: "note" }, `Not drawn: ${fault}`));
  load("sheet");
  load("sound");
  show(0, length);
  moved(Number(new URLSearchParams(location.hash.slice(1)).get("t")) || 0);
  new ResizeObserver(draw).observe(find("canvas"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

start();
