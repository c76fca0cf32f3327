"use strict";
// Shows the rows whose text has every word that was typed, and whose verdict and model are chosen.
(() => {
  const rows = Array.from(document.querySelectorAll(".index tbody tr"));
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const words = document.getElementById("words"), model = document.getElementById("model");
  const boxes = Array.from(document.querySelectorAll("input[name=verdict]"));
  const count = document.getElementById("count");
  const choose = () => {
    const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let left = 0;
    rows.forEach((row, n) => {
      row.hidden = !(verdicts.has(row.dataset.verdict) && (!model.value || row.dataset.model === model.value) &&
        asked.every((word) => texts[n].includes(word)));
      left += row.hidden ? 0 : 1;
    });
    count.textContent = `${left} of ${rows.length}`;
  };
  for (const field of [words, model, ...boxes]) for (const event of ["input", "change"]) field.addEventListener(event, choose);
  choose();  // a browser may have kept what was chosen before a reload
})();
