"use strict";
// A table that is wider than its place stands as a list: each row under the other, its cells with their titles.
(() => {
  const places = document.querySelectorAll(".scroll");
  const fit = (place) => {
    place.classList.remove("stacked");
    place.classList.toggle("stacked", place.scrollWidth > place.clientWidth);
  };
  const all = () => places.forEach(fit);
  all();
  window.addEventListener("resize", all);
  document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", all));
})();
