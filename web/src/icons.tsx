/** Icons, drawn on a grid of 24. They are never read aloud: what they stand on has a name. */

import type { ReactNode } from "react";

function icon(paths: ReactNode) {
  return (
    <svg
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.8"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      {paths}
    </svg>
  );
}

export const icons = {
  menu: icon(<path d="M4 7h16M4 12h16M4 17h10" />),
  plus: icon(<path d="M12 5v14M5 12h14" />),
  search: icon(<path d="m20 20-4.2-4.2M17.5 11a6.5 6.5 0 1 1-13 0 6.5 6.5 0 0 1 13 0Z" />),
  more: icon(<path d="M5 12h.01M12 12h.01M19 12h.01" strokeWidth="3" />),
  send: icon(<path d="M12 19V5M6 11l6-6 6 6" />),
  stop: icon(<rect x="6.5" y="6.5" width="11" height="11" rx="2" fill="currentColor" stroke="none" />),
  attach: icon(
    <path d="m20 11.5-8 8a5 5 0 0 1-7.1-7.1l8.5-8.5a3.4 3.4 0 0 1 4.8 4.8l-8.5 8.5a1.7 1.7 0 0 1-2.4-2.4l7.8-7.8" />,
  ),
  copy: icon(<path d="M9 9h10v11H9zM15 9V4H5v11h4" />),
  check: icon(<path d="m5 12.5 4.5 4.5L19 7.5" />),
  again: icon(<path d="M19.5 12a7.5 7.5 0 1 1-2.2-5.3L20 9.4M20 4.5v4.9h-4.9" />),
  edit: icon(<path d="M4 20h4L19.5 8.5l-4-4L4 16zM13.5 6.5l4 4" />),
  forward: icon(<path d="M5 12h13M12.5 6l6 6-6 6" />),
  left: icon(<path d="m14.5 6-6 6 6 6" />),
  right: icon(<path d="m9.5 6 6 6-6 6" />),
  down: icon(<path d="m6 9.5 6 6 6-6" />),
  toEnd: icon(<path d="M12 5v13M6 12.5l6 6 6-6" />),
  close: icon(<path d="M6 6l12 12M18 6 6 18" />),
  thought: icon(
    <path d="M9.5 18.5h5M10.5 21.5h3M8.8 15.2a6 6 0 1 1 6.4 0c-.5.4-.7.9-.7 1.4v.4h-5v-.4c0-.5-.2-1-.7-1.4Z" />,
  ),
  file: icon(<path d="M13.5 3.5H6.5v17h11V7.5zM13.5 3.5v4h4" />),
  settings: icon(
    <path d="M4 7h9M17 7h3M4 17h3M11 17h9M15 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM9 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z" />,
  ),
  person: icon(<path d="M12 11.5a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20.5c.8-3.6 3.8-5.5 7.5-5.5s6.7 1.9 7.5 5.5" />),
};
