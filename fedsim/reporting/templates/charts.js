// Draws a chart when it comes near the window, and only while nobody scrolls: opening the page and moving through it
// never wait for a chart. Printing draws them all, opens every fold and fetches every picture.
"use strict";
const waiting = new Set();
let scrolled = -1000, busy = false;
const idle = window.requestIdleCallback || ((task) => setTimeout(task, 20));

function library() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
}

function draw(place) {
  if (place.dataset.drawn) return;
  place.dataset.drawn = "yes";
  library();
  const figure = JSON.parse(place.nextElementSibling.textContent);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}

function work() {
  const rest = 150 - (performance.now() - scrolled);
  if (rest > 0) return setTimeout(work, rest);
  const [next] = waiting;
  if (!next) return (busy = false);
  waiting.delete(next);
  draw(next);
  idle(work);
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.isIntersecting ? waiting.add(entry.target) : waiting.delete(entry.target);
  if (waiting.size && !busy) { busy = true; idle(work); }
}, {rootMargin: "400px 0px"});

addEventListener("scroll", () => { scrolled = performance.now(); }, {passive: true});
addEventListener("load", () => {
  idle(library);
  for (const place of document.querySelectorAll(".plot")) near.observe(place);
});
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const image of document.images) image.loading = "eager";
  for (const place of document.querySelectorAll(".plot")) draw(place);
});
