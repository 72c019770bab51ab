/** Files dropped anywhere on the page; a browser would leave the page and show them instead. */

import { useEffect, useState } from "react";

/** Whether files are held over the page. */
export function useDrop(add: (files: Iterable<File>) => void): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const taken = (event: DragEvent) => {
      const files = event.dataTransfer?.types.includes("Files") ?? false; // other things are the box's own
      if (files) event.preventDefault();
      return files;
    };
    const onOver = (event: DragEvent) => {
      if (taken(event)) setOver(true);
    };
    const onLeave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (taken(event)) add([...(event.dataTransfer?.files ?? [])]);
    };
    window.addEventListener("dragover", onOver);
    window.addEventListener("dragleave", onLeave);
    window.addEventListener("drop", onDrop);
    return () => {
      window.removeEventListener("dragover", onOver);
      window.removeEventListener("dragleave", onLeave);
      window.removeEventListener("drop", onDrop);
    };
  }, [add]);
  return over;
}
