// Draws a chart when it comes near the window, and only while nobody scrolls: opening the page and moving through it
// never wait for a chart. Pictures out of sight are read a few at a time once the page stands, so that printing finds
// them; printing also draws every chart and opens every fold.
"use strict";
const waiting = new Set();
let scrolled = -1000, busy = false;
const idle = (task) => window.requestIdleCallback ? requestIdleCallback(task, {timeout: 200}) : setTimeout(task, 20);

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

function read(images) {
  if (performance.now() - scrolled < 150) return setTimeout(read, 150, images);
  for (const image of images.splice(0, 16)) image.loading = "eager";
  if (images.length) idle(() => read(images));
}

addEventListener("scroll", () => { scrolled = performance.now(); }, {passive: true});
addEventListener("load", () => {
  idle(() => { library(); read([...document.images]); });
  for (const place of document.querySelectorAll(".plot")) near.observe(place);
});
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const image of document.images) image.loading = "eager";
  for (const place of document.querySelectorAll(".plot")) draw(place);
});
