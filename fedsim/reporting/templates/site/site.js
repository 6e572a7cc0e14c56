// Sorting, filtering and the pictures side by side. The page is complete without; text from entries is only ever text.
"use strict";

const AT_FIRST = 50;  // rows of a table until all are asked for; site.css hides the others while the page loads
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.querySelector(".filters");
const compare = new Intl.Collator("en").compare;
const boards = [...document.querySelectorAll(".ranking")].map(makeBoard);

function makeBoard(section) {
  const name = section.dataset.board;
  const board = {name, count: section.querySelector(".count"), more: section.querySelector(".more"), by: 0, down: false, all: false};
  let at = 0;
  board.groups = [...section.querySelectorAll("tbody")].map(body => {
    const [head, ...rows] = body.rows;
    const heading = head.textContent.toLowerCase();
    body.classList.remove("late");
    return {body, head, rows: rows.map(row => ({...data[name][at], row, at: at++, text: `${heading} ${row.textContent.toLowerCase()}`}))};
  });
  board.rows = board.groups.flatMap(group => group.rows);
  for (const group of board.groups) group.order = group.rows;
  board.heads = [...section.querySelectorAll("thead th")].slice(1);
  board.heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => { sort(board, at + 1); show(); remember(); });
  });
  board.more.addEventListener("click", () => { board.all = !board.all; show(); remember(); });
  return board;
}

// Rows are sorted under their heading: numbers of different settings do not compare. Columns count from 1; 0 is the order in
// which the table came. Numbers begin at the high end, except ranks.
function sort(board, column) {
  const upFirst = column === 1 || typeof board.rows.find(r => r.values[column - 1] !== null)?.values[column - 1] === "string";
  if (board.by !== column) setOrder(board, column, !upFirst);
  else if (board.down !== upFirst) setOrder(board, column, upFirst);
  else setOrder(board, 0, false);
}

function setOrder(board, column, down) {
  board.by = column;
  board.down = down;
  const sign = down ? -1 : 1;
  for (const group of board.groups) {
    const former = group.order;
    group.order = column === 0 ? group.rows : group.rows.toSorted((a, b) => {
      const x = a.values[column - 1], y = b.values[column - 1];
      if (x === null || y === null) return (x === null) - (y === null) || a.at - b.at;
      return sign * (typeof x === "number" ? x - y : compare(x, y)) || a.at - b.at;
    });
    if (group.order.some((row, at) => row !== former[at])) group.body.append(...group.order.map(r => r.row));
  }
  board.heads.forEach((head, at) => {
    if (at + 1 === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

function show() {
  const chosen = [...form.querySelectorAll("select")].map(select => select.value);
  const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const roles = {attack: true, oracle: form.elements.oracle.checked, floor: form.elements.floor.checked};
  for (const board of boards) {
    const fits = board.groups.flatMap(group => group.order).filter(r => roles[r.role]
      && chosen.every((value, at) => !value || r.facets[at] === value) && words.every(word => r.text.includes(word)));
    const visible = new Set(board.all ? fits : fits.slice(0, AT_FIRST));
    for (const group of board.groups) {
      let some = false;
      for (const r of group.rows) {
        some ||= visible.has(r);
        if (r.row.hidden === visible.has(r)) r.row.hidden = !r.row.hidden;
      }
      if (group.body.hidden === some) group.body.hidden = !some;
    }
    board.count.textContent = `${fits.length.toLocaleString("en")} of ${board.rows.length.toLocaleString("en")}`;
    board.more.hidden = fits.length <= AT_FIRST;
    board.more.textContent = board.all ? `Show the first ${AT_FIRST}` : `Show all ${fits.length.toLocaleString("en")}`;
  }
}

// The address holds the state, so that a view can be linked to.
function remember() {
  const state = new URLSearchParams();
  for (const field of form.elements) {
    if (field.type === "checkbox") { if (field.checked !== field.defaultChecked) state.set(field.name, field.checked ? "1" : "0"); }
    else if (field.name && field.value) state.set(field.name, field.value);
  }
  for (const board of boards) {
    if (board.by) state.set(`sort.${board.name}`, `${board.down ? "-" : ""}${board.by}`);
    if (board.all) state.set(`all.${board.name}`, "1");
  }
  history.replaceState(null, "", `#${state}`);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = state.has(field.name) ? state.get(field.name) === "1" : field.defaultChecked;
    else if (field.name) field.value = state.get(field.name) ?? "";
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = "";
  }
  for (const board of boards) {
    const column = Number(state.get(`sort.${board.name}`) ?? 0);
    const known = Number.isInteger(column) && Math.abs(column) <= board.heads.length;
    setOrder(board, known ? Math.abs(column) : 0, known && column < 0);
    board.all = state.has(`all.${board.name}`);
  }
}

const dialog = document.querySelector("dialog");

function open(stem) {
  const entry = data.entries[stem];
  document.getElementById("entry-title").textContent = entry.title;
  document.getElementById("entry-setting").textContent = entry.setting;
  for (const place of dialog.querySelectorAll("[data-of]")) place.textContent = entry[place.dataset.of] ?? "";
  const file = dialog.querySelector("[data-of=file]");
  file.textContent = `${stem}.json`;
  file.href = `entries/${stem}.json`;
  dialog.querySelector(".pictures tbody").replaceChildren(...(entry.picture ? lines(entry.picture) : []));
  document.getElementById("entry-note").textContent = entry.picture
    ? "Victims from the least to the most rebuilt by the strongest attack, with their PSNR. Error: the absolute difference of the pixels, not scaled."
    : "This entry has no pictures.";
  dialog.showModal();
}

// Three lines of tiles cut from one picture: originals, reconstructions, and the difference of the two.
function lines(picture) {
  const n = picture.psnr.length;
  const image = `url("pictures/${picture.file}")`;
  const line = (heading, tops) => {
    const row = document.createElement("tr");
    const head = row.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = heading;
    for (let at = 0; at < n; at++) {
      const tile = row.insertCell().appendChild(document.createElement("span"));
      tile.className = tops.length > 1 ? "tile error" : "tile";
      tile.setAttribute("role", "img");
      tile.setAttribute("aria-label", `${heading}, victim ${at + 1}`);
      tile.style.setProperty("--n", n);
      tile.style.setProperty("--ratio", picture.tile[0] / picture.tile[1]);
      tile.style.backgroundImage = tops.map(() => image).join(", ");
      tile.style.backgroundPosition = tops.map(top => `${n > 1 ? 100 * at / (n - 1) : 0}% ${top}%`).join(", ");
    }
    return row;
  };
  const scores = document.createElement("tr");
  const head = scores.appendChild(document.createElement("th"));
  head.scope = "row";
  head.textContent = "dB";
  for (const psnr of picture.psnr) scores.insertCell().textContent = psnr === null ? "–" : psnr.toFixed(1);
  return [line("original", [0]), line("rebuilt", [100]), line("error", [0, 100]), scores];
}

document.addEventListener("click", event => {
  const link = event.target.closest("a[data-entry]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    open(link.dataset.entry);
  }
  if (event.target === dialog) dialog.close();
});

if (form) {
  const filtering = form.closest("details");
  const narrow = matchMedia("(max-width: 40rem)");
  const fold = () => { filtering.open = !narrow.matches || location.hash.length > 1; };
  narrow.addEventListener("change", fold);
  fold();
  filtering.hidden = false;
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => { show(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { show(); remember(); }));
  addEventListener("hashchange", () => { recall(); show(); });
  for (const link of document.querySelectorAll("a[data-entry]")) link.setAttribute("aria-haspopup", "dialog");
  recall();
  show();
  document.documentElement.classList.remove("loading");
}
