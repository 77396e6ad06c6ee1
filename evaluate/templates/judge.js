"use strict";
// Marks of images on a page of facepack noise, saved as a list that --exclude takes.
const rows = [...document.querySelectorAll("[data-key]")];
const letters = { w: "wrong", k: "keep", u: "unsure" };
const page = document.getElementById("marks").dataset;
let unsaved = false;

function marked(value) {
  return rows
    .filter((row) => row.querySelector("input:checked")?.value === value)
    .map((row) => ({ key: row.dataset.key, label: Number(row.dataset.label) }));
}

function list() {
  const kinds = { records: marked("wrong"), keep: marked("keep"), unsure: marked("unsure") };
  return JSON.stringify({ content_id: page.contentId, ...kinds }, null, 1) + "\n";
}

function tell() {
  const counts = Object.values(letters).map((value) => `${marked(value).length} ${value}`);
  document.getElementById("count").textContent = counts.join(", ");
}

function move(row, by) {
  const next = rows[rows.indexOf(row) + by];
  next?.focus();
  next?.scrollIntoView({ block: "center" });
}

document.addEventListener("change", () => {
  unsaved = true;
  tell();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const row = document.activeElement?.closest("[data-key]");
  if (event.key === "n" || event.key === "p") {
    if (row) move(row, event.key === "n" ? 1 : -1);
    else rows[0]?.focus();
  } else if (row && event.key in letters) {
    row.querySelector(`input[value=${letters[event.key]}]`).checked = true;
    unsaved = true;
    tell();
    move(row, 1);
  }
});

document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([list()], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  unsaved = false;
});

window.addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
tell();
