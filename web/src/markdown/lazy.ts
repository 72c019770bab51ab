/** A module that is loaded when it is first needed. `now` gives it without waiting once it is there. */
export interface Lazy<T> {
  (): Promise<T>;
  now: () => T | null;
}

export function lazy<T>(load: () => Promise<T>): Lazy<T> {
  let module: T | null = null;
  let loading: Promise<T> | null = null;
  const get = () => {
    loading ??= load().then(
      (loaded) => {
        module = loaded;
        return loaded;
      },
      (error) => {
        // The next that needs it tries again.
        loading = null;
        throw error;
      },
    );
    return loading;
  };
  return Object.assign(get, { now: () => module });
}
