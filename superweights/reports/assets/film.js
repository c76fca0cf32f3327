"use strict";
// Runs every film of the page: the slider chooses a frame, the button plays them in a loop.
(() => {
  for (const film of document.querySelectorAll(".film")) {
    const slider = film.querySelector("input"), button = film.querySelector("button");
    const groups = [...film.querySelectorAll(".reels > div")].map((reel) => [...reel.querySelectorAll("img")]);
    groups.push([...film.querySelectorAll("output > span")]);
    let timer = null;
    const show = (frame) => {
      slider.value = frame;
      for (const group of groups) group.forEach((each, n) => { each.hidden = n !== Number(frame); });
    };
    const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
    slider.addEventListener("input", () => { stop(); show(slider.value); });
    button.addEventListener("click", () => {
      if (timer !== null) return stop();
      button.textContent = "Stop";
      if (slider.value === slider.max) show(0);
      timer = setInterval(() => show((Number(slider.value) + 1) % (Number(slider.max) + 1)), 500);
    });
  }
})();
