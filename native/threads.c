/* Threads of another program, which come in through Python functions, as nbdkit's do.
 *
 * The interpreter makes a record of such a thread when it comes in and frees it when it leaves, for each call anew: it
 * maps memory for that and unmaps it, of which every processor has to hear. A thread that is kept has one record until
 * it ends. This is the only file here that knows the interpreter. */

#define Py_LIMITED_API 0x030b0000

#include <Python.h>
#include <pthread.h>

#include "pydrbd.h"

static pthread_key_t record_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int has_key;

/* At the thread's end. */
static void forget(void *record) {
    if (Py_IsInitialized()) {
        PyEval_AcquireThread(record);
        PyThreadState_Clear(record);
        PyEval_ReleaseThread(record);
        PyThreadState_Delete(record);
    }
}

static void make_key(void) {
    has_key = pthread_key_create(&record_of_thread, forget) == 0;
}

void pydrbd_keep_thread(void) {
    pthread_once(&once, make_key);
    if (has_key && pthread_getspecific(record_of_thread) == NULL) {
        PyGILState_Ensure(); /* never released: so the record stays */
        pthread_setspecific(record_of_thread, PyThreadState_Get());
        PyEval_SaveThread(); /* cffi called us without the interpreter's lock */
    }
}
