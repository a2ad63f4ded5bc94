"use strict";
// Elements, icons, numbers and words.  Names, labels and ids become text nodes and properties here, never markup.

const byId = (id) => document.getElementById(id);

/** Children that are there: lists are flattened; null, undefined and false are left out. */
const present = (children) => children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

/** As element.append and element.replaceChildren, which would write the word "null" for a child that is not there. */
const addTo = (element, ...children) => element.append(...present(children));
const fillWith = (element, ...children) => element.replaceChildren(...present(children));

/** make("a", {href: url, class: "card"}, "text", child, null): properties where the element has them, else attributes. */
const make = (tag, properties, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name in element && name !== "list" && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  addTo(element, ...children);
  return element;
};

/** shape("rect", {x: 1, class: "a"}, child): an element of a drawing, all of it attributes. */
const shape = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  addTo(element, ...children);
  return element;
};

const icon = (name) => shape("svg", { class: "icon", "aria-hidden": "true" }, shape("use", { href: `#icon-${name}` }));

const button = (label, onclick, properties, ...children) =>
  make("button", { type: "button", onclick, ...properties }, ...(children.length ? children : [label]));

const iconButton = (name, label, onclick, properties) =>
  button(label, onclick, { class: "icon-button", title: label, "aria-label": label, ...properties }, icon(name));

/** Text of the user: kept apart from ours where its script runs from right to left. */
const userText = (text, className) => make("bdi", { class: className }, text);

const grouped = (number) => number.toLocaleString("en-US");
const plural = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;
const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);
const decimals = (number) => (number === null || number === undefined ? "–" : number.toFixed(2));
const lastPart = (id) => id.replace(/\/+$/, "").split("/").pop() || id;
const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

const debounce = (delay, run) => {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(run, delay, ...values);
  };
};

/** The colour that a custom property stands for in the scheme shown now: canvases need it spelled out. */
const colourOf = (property) => {
  const probe = byId("probe");
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
};

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Settings and names that the browser keeps; a page opened from disk may be refused. */
const storage = {
  usable: true,
  read(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      this.usable = true;
    } catch {
      this.usable = false;
    }
  },
};

let toastTimer = 0;
/** Say what happened, for eyes and screen readers; `action` is [label, function] of a button beside it. */
const say = (text, action) => {
  const toast = byId("toast");
  fillWith(toast,
    make("span", {}, text),
    ...(action ? [button(action[0], () => (hush(), action[1]()))] : []),
    iconButton("close", "Dismiss", () => hush()),
  );
  toast.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hush, 9000);
};

const hush = () => {
  clearTimeout(toastTimer);
  byId("toast").classList.remove("shown");
  toastTimer = setTimeout(() => byId("toast").replaceChildren(), 300);
};

/** A place of the page that says what is wrong and what to do. */
const fault = (text) => make("p", { class: "fault-note", role: "alert" }, text);
