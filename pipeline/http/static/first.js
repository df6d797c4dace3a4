// Before the first paint: show the job or the start, not one after the other.
"use strict";
document.documentElement.dataset.view = location.hash.length > 1 ? "job" : "home";
