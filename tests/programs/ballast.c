// A library with BALLAST bytes of read-only data.
const char ballast[BALLAST] = {1};
