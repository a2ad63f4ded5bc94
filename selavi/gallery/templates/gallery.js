"use strict";
(() => {
  const main = document.getElementById("clusters");
  const skyline = document.getElementById("skyline");
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const nothing = document.getElementById("nothing");
  const cards = [...main.querySelectorAll(".cluster")].map((element) => ({
    element,
    bar: skyline.querySelector(`[data-cluster="${element.dataset.number}"]`),
    number: Number(element.dataset.number),
    size: Number(element.dataset.size),
    confidence: Number(element.dataset.confidence),
    purity: Number(element.dataset.purity),
    text: [...element.querySelectorAll("[data-find]")].map((node) => node.textContent.toLowerCase()),
  }));

  // A number alone means the cluster of that number, where there is one; anything else is looked for in the texts.
  const show = () => {
    const query = search.value.trim().toLowerCase();
    const asked = /^#?\d+$/.test(query) ? Number(query.replace("#", "")) : null;
    const exact = cards.some((card) => card.number === asked);
    let shown = 0;
    for (const card of cards) {
      const fits = !query || (exact ? card.number === asked : card.text.some((text) => text.includes(query)));
      card.element.hidden = !fits;
      card.bar.classList.toggle("out", !fits);
      shown += fits;
    }
    nothing.hidden = shown > 0;
    count.textContent = shown === cards.length ? `${shown} clusters` : `${shown} of ${cards.length} clusters`;
    if (sounding && sounding.closest("[hidden]")) stop();
  };

  const order = () => {
    const key = sort.value;
    const direction = key === "number" ? 1 : -1;
    cards.sort((a, b) => direction * (a[key] - b[key]) || a.number - b.number);
    for (const card of cards) {
      main.insertBefore(card.element, nothing);
      skyline.append(card.bar);
    }
  };

  // Players: a browser allows few at a time, so only the last four keep their media loaded.
  let sounding = null;
  let watching = null;
  let pending = 0;
  const loaded = [];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const videoOf = (tile) => tile.querySelector("video");

  const play = (tile, muted) => {
    const video = videoOf(tile);
    const place = loaded.indexOf(video);
    if (place >= 0) loaded.splice(place, 1);
    loaded.push(video);
    if (loaded.length > 4) {
      const oldest = loaded.shift();
      oldest.setAttribute("src", oldest.getAttribute("src")); // starts over with preload="none": the player is freed
    }
    video.muted = muted;
    video.loop = muted;
    video.currentTime = Number(video.dataset.start);
    video.play().catch((error) => {
      if (error.name === "NotSupportedError") fail(tile);
    });
  };

  const rest = (tile) => {
    videoOf(tile).pause();
    tile.classList.remove("live", "sounding");
    tile.setAttribute("aria-pressed", "false");
    tile.querySelector(".progress").style.transform = "";
  };

  const stop = () => {
    if (sounding) rest(sounding);
    sounding = null;
  };

  const unwatch = () => {
    clearTimeout(pending);
    if (watching) rest(watching);
    watching = null;
  };

  const fail = (tile) => {
    if (sounding === tile) stop();
    if (watching === tile) unwatch();
    tile.classList.add("faulty");
    tile.setAttribute("aria-label", `${tile.querySelector(".fault").textContent}: ${videoOf(tile).getAttribute("src")}`);
  };

  const listen = (tile) => {
    const again = sounding === tile;
    unwatch();
    stop();
    if (again || tile.classList.contains("faulty")) return;
    sounding = tile;
    tile.classList.add("sounding");
    tile.setAttribute("aria-pressed", "true");
    play(tile, false);
  };

  const watch = (tile) => {
    unwatch();
    if (tile === sounding || still.matches || tile.classList.contains("faulty")) return;
    pending = setTimeout(() => {
      watching = tile;
      play(tile, true);
    }, 120); // a pointer on its way elsewhere starts nothing
  };

  for (const tile of main.querySelectorAll(".tile")) {
    const video = videoOf(tile);
    tile.addEventListener("click", () => listen(tile));
    tile.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") watch(tile);
    });
    tile.addEventListener("pointerleave", unwatch);
    video.addEventListener("playing", () => {
      if (tile === sounding || tile === watching) tile.classList.toggle("live", video.videoWidth > 0);
    });
    video.addEventListener("timeupdate", () => {
      if (tile !== sounding || !(video.duration > 0)) return;
      tile.querySelector(".progress").style.transform = `scaleX(${video.currentTime / video.duration})`;
    });
    video.addEventListener("ended", () => {
      if (tile === sounding) stop();
    });
    video.addEventListener("error", () => fail(tile));
  }

  search.addEventListener("input", show);
  sort.addEventListener("change", order);
  document.getElementById("clear").addEventListener("click", () => {
    search.value = "";
    show();
    search.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "/" && event.target !== search && event.target !== sort) {
      event.preventDefault();
      search.focus();
    }
  });
  show();
})();
