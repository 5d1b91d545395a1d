/* NSS's software token (libsoftokn3.so) as python-pkcs11 can use it: a second real PKCS#11 module.

   Two things stand between them. NSS wants a string in pReserved of C_Initialize, which
   python-pkcs11 calls with NULL. And when C_Encrypt is asked for the size of its output, NSS leaves
   the tag of AES-GCM out, which python-pkcs11 believes. Everything else goes to NSS as it comes.

   Built with -DDIRECTORY='"..."', where `certutil -N` has made the token. */

#include <dlfcn.h>
#include <stddef.h>

typedef unsigned long word;
typedef struct { unsigned char major, minor; void *functions[68]; } function_list;
typedef struct { void *mutexes[4]; word flags; const char *parameters; } initialize_arguments;

enum { INITIALIZE = 0, GET_FUNCTION_LIST = 3, ENCRYPT = 30 };
enum { OK = 0, GENERAL_ERROR = 5, OS_LOCKING_OK = 2, TAG_BYTES = 16 };

static function_list ours, *theirs;

static word initialize(void *ignored) {
    initialize_arguments arguments = {
        { NULL }, OS_LOCKING_OK,
        "configdir='sql:" DIRECTORY "' certPrefix='' keyPrefix='' secmod='' flags=",
    };
    (void) ignored;
    return ((word (*)(void *)) theirs->functions[INITIALIZE])(&arguments);
}

static word encrypt(word session, void *data, word size, void *output, word *output_size) {
    word result = ((word (*)(word, void *, word, void *, word *)) theirs->functions[ENCRYPT])(
        session, data, size, output, output_size);
    if (result == OK && output == NULL) {
        *output_size += TAG_BYTES;
    }
    return result;
}

word C_GetFunctionList(function_list **list) {
    void *library = dlopen("libsoftokn3.so", RTLD_NOW | RTLD_LOCAL);
    word (*get)(function_list **);
    if (library == NULL) {
        return GENERAL_ERROR;
    }
    get = (word (*)(function_list **)) dlsym(library, "C_GetFunctionList");
    if (get == NULL || get(&theirs) != OK) {
        return GENERAL_ERROR;
    }
    ours = *theirs;
    ours.functions[INITIALIZE] = initialize;
    ours.functions[GET_FUNCTION_LIST] = C_GetFunctionList;
    ours.functions[ENCRYPT] = encrypt;
    *list = &ours;
    return OK;
}
