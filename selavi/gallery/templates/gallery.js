"use strict";
const selavi = {
  loaded: {},
  index(value) { this.loaded.index = value; document.getElementById("main").textContent = value.title; },
  members(name, value) { this.loaded[`${name}-${value.part}`] = value; },
  map(value) { this.loaded.map = value; },
  ids(part, value) { this.loaded[`ids-${part}`] = value; },
  labels(head, value) { this.loaded[`labels-${head}`] = value; },
  load(path) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = path;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
  },
};
window.selavi = selavi;
selavi.load("data/index.js");
